//! What an engine and a kubelet send to `nvoci-nri`: frames of the trunk, ttrpc messages, and an
//! HTTP/2 response. The input is the engine's stream and the kubelet's response, with a line
//! between.

use std::io::{Cursor, Read, Write};

use nvoci_nri::decide::{Allocation, Policy, Rules, decide};
use nvoci_nri::messages::Create;
use nvoci_nri::options::Options;
use nvoci_nri::session::Session;
use nvoci_nri::status::Status;
use nvoci_nri::ttrpc::{self, Inbox, Request};
use nvoci_nri::{kubelet, messages, trunk};

use crate::count::reached;

const LINE: &[u8] = b"\n--kubelet--\n";

/// A stream that returns fixed bytes and takes all that is written.
struct Fixed<'a>(&'a [u8]);

impl Read for Fixed<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        self.0.read(buffer)
    }
}

impl Write for Fixed<'_> {
    fn write(&mut self, buffer: &[u8]) -> std::io::Result<usize> {
        Ok(buffer.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// Holds for every input.
pub(crate) fn check(input: &[u8]) {
    reached("run");
    let at = input.windows(LINE.len()).position(|piece| piece == LINE);
    let (engine, answer) = at.map_or((input, &[][..]), |at| (&input[..at], &input[at + LINE.len()..]));
    let list = kubelet::call(Fixed(answer)).unwrap_or_default();
    let rules = Rules {
        policy: Policy::Allocated,
        management: ["gpu-operator".to_owned()].into(),
    };
    let options = Options {
        socket: "/nonexistent".into(),
        index: 10,
        rules: rules.clone(),
        kubelet: "/nonexistent".into(),
        listen: None,
    };
    let (status, mut out) = (Status::default(), Vec::new());
    let mut session = Session {
        out: &mut out,
        options: &options,
        status: &status,
        environment_only: false,
    };
    let (mut inboxes, mut requests) = ((Inbox::default(), Inbox::default()), Vec::new());
    let mut reader = Cursor::new(engine);
    while trunk::read_frame(&mut reader, |number, piece| match number {
        trunk::PLUGIN => inboxes.0.push(piece, |message| {
            if message.kind == ttrpc::REQUEST {
                requests.push(message.stream);
                created(&rules, &message.body, &list);
            }
            session.answer(&message)
        }),
        trunk::RUNTIME => inboxes.1.push(piece, |message| session.accept(&message)),
        _ => Ok(()),
    })
    .is_ok()
    {}
    // Each request is answered once, in its order.
    let (mut answers, mut streams) = (Inbox::default(), Vec::new());
    let mut written = Cursor::new(out);
    while trunk::read_frame(&mut written, |number, piece| {
        assert_eq!(number, trunk::PLUGIN);
        answers.push(piece, |message| {
            assert_eq!(message.kind, ttrpc::RESPONSE);
            streams.push(message.stream);
            Ok(())
        })
    })
    .is_ok()
    {}
    assert_eq!(streams, requests);
    assert_eq!(answers.waiting(), 0);
}

/// A container gets what the kubelet's list has for it, and management devices in a configured
/// namespace.
fn created(rules: &Rules, body: &[u8], list: &[u8]) {
    let Ok(request) = Request::read(body) else { return };
    if request.service != messages::PLUGIN || request.method != "CreateContainer" {
        return;
    }
    let Ok(create) = Create::read(request.payload) else {
        return;
    };
    reached("created");
    let found = kubelet::find(list, create.namespace, create.pod, create.container);
    let allocation = || found.clone().map_err(|e| e.to_string());
    match decide(rules, &create, allocation) {
        Ok(answer) => {
            reached("accepted");
            let Allocation { ids, names } = found.unwrap_or_default();
            for name in &answer.adjustment.cdi {
                let id = name.split_once('=').map_or("", |(_, id)| id);
                let managed =
                    name.starts_with("management.nvidia.com/") && create.namespace == "gpu-operator";
                assert!(managed || ids.contains(id) || names.contains(name), "{name}");
            }
            reached(if answer.adjustment.cdi.is_empty() {
                "none"
            } else {
                "devices"
            });
        }
        Err(refusal) => {
            let line = refusal.to_string();
            assert!(!line.contains(|c: char| c.is_control()), "{line:?}");
            assert!(line.contains("[NVOCI-800"), "{line}");
            reached("refused");
        }
    }
}
