use proptest::prelude::*;

use super::*;
use crate::ldso::CACHE;
use crate::lengths::{EXTREMES, LARGE};
use crate::sys::peak::peak;

/// A message as it is in the pipe.
fn sent(wire: &Wire<'_>) -> Vec<u8> {
    postcard::to_extend(wire, Vec::new()).unwrap()
}

fn received(wire: &Wire<'_>) -> Result<Message, Refused> {
    Message::receive(&sent(wire))
}

fn outcome(how: How) -> CacheOutcome {
    CacheOutcome {
        how,
        target: CACHE,
        bytes: b"cache".to_vec(),
        warnings: vec!["a warning".to_owned()],
    }
}

/// One message of each kind, with a value of each type.
fn messages() -> Vec<Message> {
    let stub = preflight::check_of(7703).unwrap();
    let finding = Finding::new(stub, Severity::Fail, "/opt/lib", "it is a stub").fix("remove it");
    let change = |target: Option<&str>| Change {
        dir: PathBuf::from("/usr/lib"),
        name: OsString::from("libx.so.1"),
        target: target.map(OsString::from),
    };
    let seen = |preferred| {
        Message::Seen(Seen {
            preferred,
            lacking: vec![true, false],
        })
    };
    vec![
        Message::Ready,
        Message::Verdict(Verdict {
            certain: vec![finding.clone(), finding.clone()],
            hidden: None,
        }),
        Message::Verdict(Verdict {
            certain: Vec::new(),
            hidden: Some(Hidden {
                finding,
                unless: vec![PathBuf::from("/usr/local/nvidia")],
            }),
        }),
        seen(Preferred::Nothing),
        seen(Preferred::Refused("too new".to_owned())),
        seen(Preferred::Use {
            dir: PathBuf::from("/usr/local/cuda/compat"),
            names: vec![
                OsString::from("libcuda.so.1"),
                OsString::from("libnvidia-nvvm.so.4"),
            ],
        }),
        Message::Cache(outcome(How::Merged)),
        Message::Cache(outcome(How::MuslPath)),
        Message::Cache(outcome(How::None)),
        Message::Scanned(Scanned {
            dirs: vec![PathBuf::from("/opt/lib")],
            changes: vec![change(Some("libx.so.1.2")), change(None)],
            outcome: outcome(How::Rebuilt {
                reason: "it is stale".to_owned(),
            }),
        }),
        Message::CudaCompat(Found::Nothing),
        Message::CudaCompat(Found::Unsuited("too old".to_owned())),
        Message::CudaCompat(Found::Use(PathBuf::from("/usr/local/cuda/compat"))),
        Message::DriverDir(PathBuf::from("/usr/local/nvidia")),
    ]
}

#[test]
fn each_message_arrives_as_it_was_sent() {
    for message in messages() {
        assert_eq!(received(&Wire::of(&message)), Ok(message));
    }
}

#[test]
fn a_message_is_neither_shorter_nor_longer() {
    for message in messages() {
        let mut bytes = sent(&Wire::of(&message));
        for cut in 0..bytes.len() {
            assert!(Message::receive(&bytes[..cut]).is_err(), "{message:?} {cut}");
        }
        bytes.push(0);
        assert_eq!(Message::receive(&bytes), Err(Refused::Form));
    }
}

#[test]
fn compatibility_libraries_are_names_in_one_directory() {
    let refused = |dir: &str, name: &str| {
        let names = std::iter::once(name).map(Bytes::of).collect();
        let dir = Bytes::of(dir);
        let preferred = WirePreferred::Use { dir, names };
        let lacking = std::iter::empty().collect();
        received(&Wire::Seen { preferred, lacking }).unwrap_err()
    };
    assert_eq!(refused("relative", "libcuda.so.1"), Refused::Path);
    assert_eq!(refused("", "libcuda.so.1"), Refused::Path);
    assert_eq!(refused("/x\0", "libcuda.so.1"), Refused::Path);
    assert_eq!(refused(&"/x".repeat(4096), "libcuda.so.1"), Refused::Path);
    for name in ["../libx", "lib/../../etc/passwd", "passwd", "", "..", "lib\0x"] {
        assert_eq!(refused("/x", name), Refused::LibraryName, "{name}");
    }
}

#[test]
fn a_cache_is_for_a_loaders_place_alone() {
    let cache = |target: &'static str, warnings: &[&'static str]| {
        received(&Wire::Cache(WireCache {
            how: WireHow::Rebuilt("a\x1b[2Jb"),
            target: Bytes::of(target),
            bytes: Bytes(b"bytes"),
            warnings: warnings.iter().copied().collect(),
        }))
    };
    let Ok(Message::Cache(found)) = cache(CACHE, &["odd\x1b[2J"]) else {
        panic!("not a cache");
    };
    assert_eq!(found.target, CACHE);
    assert!(!found.warnings[0].contains('\x1b'));
    assert!(matches!(found.how, How::Rebuilt { reason } if !reason.contains('\x1b')));
    for place in ["/etc/passwd", "/etc/ld.so.cache/", ""] {
        assert_eq!(cache(place, &[]), Err(Refused::CachePlace));
    }
    let Ok(Message::Cache(many)) = cache(CACHE, &["x"; MAX_WARNINGS]) else {
        panic!("not a cache");
    };
    assert!(many.warnings.len() < 100);
}

#[test]
fn links_stay_in_their_directory() {
    let refused = |dir: &str, name: &str, target: &str| {
        let change = WireChange {
            dir: Bytes::of(dir),
            name: Bytes::of(name),
            target: Some(Bytes::of(target)),
        };
        received(&Wire::Scanned {
            dirs: std::iter::empty().collect(),
            changes: std::iter::once(change).collect(),
            cache: WireCache::of(&outcome(How::Merged)),
        })
        .unwrap_err()
    };
    for (name, target) in [
        ("../x", "libx.so.1.0"),
        ("libx.so.1", "/etc/passwd"),
        ("libx.so.1", ".."),
        ("libx.so.1", ""),
        ("", "libx.so.1.0"),
        (".", "x"),
        ("libx\0", "x"),
    ] {
        assert_eq!(
            refused("/usr/lib", name, target),
            Refused::Name,
            "{name} {target}"
        );
    }
    assert_eq!(refused("usr/lib", "libx.so.1", "libx.so.1.0"), Refused::Path);
}

fn verdict<'m>(finding: WireFinding<'m>, hidden: Option<WireHidden<'m>>) -> Wire<'m> {
    Wire::Verdict {
        certain: std::iter::once(finding).collect(),
        hidden,
    }
}

#[test]
fn texts_of_findings_are_single_lines() {
    let finding = WireFinding {
        check: 7702,
        is_failure: false,
        subject: "a\nb",
        cause: &format!("\x1b[31m{}", "x".repeat(100_000)),
        fix: "\u{202e}",
    };
    let Ok(Message::Verdict(Verdict { certain: found, .. })) = received(&verdict(finding, None)) else {
        panic!("no findings");
    };
    let line = found[0].to_string();
    let Finding {
        subject, cause, fix, ..
    } = &found[0];
    for text in [subject, cause, fix, &line] {
        assert!(
            !text.contains(['\n', '\x1b', '\u{202e}']) && text.len() < 2_000,
            "{text}"
        );
    }
    assert!(
        line.starts_with("a\\nb: ") && line.ends_with("[NVOCI-7702]"),
        "{line}"
    );
}

/// Only preflight's own checks are in a child's message.
#[test]
fn a_finding_of_another_check_is_refused() {
    for check in [0, 3006, 7302, 7700, 7799, u16::MAX] {
        let finding = WireFinding {
            check,
            is_failure: true,
            subject: "a",
            cause: "b",
            fix: "",
        };
        assert_eq!(received(&verdict(finding, None)), Err(Refused::Check), "{check}");
    }
}

#[test]
fn a_findings_places_are_absolute_paths() {
    let stub = || WireFinding {
        check: 7703,
        is_failure: true,
        subject: "a",
        cause: "b",
        fix: "",
    };
    let hidden = |unless: &'static str| {
        let unless = std::iter::once(unless).map(Bytes::of).collect();
        let finding = stub();
        received(&verdict(stub(), Some(WireHidden { finding, unless })))
    };
    assert!(hidden("/usr/local/nvidia").is_ok());
    for bad in ["", "usr/local/nvidia", "/usr\0"] {
        assert_eq!(hidden(bad), Err(Refused::Path), "{bad:?}");
    }
}

/// A number as postcard writes it.
fn varint(mut n: u64) -> Vec<u8> {
    let mut out = Vec::new();
    while n >= 0x80 {
        out.push(u8::try_from(n & 0x7f).unwrap() | 0x80);
        n >>= 7;
    }
    out.push(u8::try_from(n).unwrap());
    out
}

/// Tries each byte as a length: most are none, and none may do harm.
#[test]
fn lengths_at_their_extremes_are_refused_or_harmless() {
    for message in messages() {
        let good = sent(&Wire::of(&message));
        for at in 0..good.len() {
            for value in EXTREMES {
                let bad = [&good[..at], &varint(value), &good[at + 1..]].concat();
                let bytes = peak(|| drop(Message::receive(&bad)));
                assert!(bytes < 64 << 10, "{message:?}: {at} = {value:#x}: {bytes} bytes");
            }
        }
    }
}

/// A list of a million one-byte elements would take 24 to 56 times its size.
#[test]
fn lists_are_limited_before_they_are_kept() {
    let head = |variant: u8, count: usize| [vec![variant], varint(count as u64)].concat();
    for (name, variant, limit, most) in [
        ("findings", 1, MAX_FINDINGS, 64 << 10),
        ("directories", 4, MAX_DIRS, 256 << 10),
    ] {
        for count in [limit + 1, 1 << 20, LARGE] {
            let mut message = head(variant, count);
            message.resize(LARGE, 0);
            let bytes = peak(|| assert_eq!(Message::receive(&message), Err(Refused::Form), "{name}"));
            assert!(bytes <= most, "{name}: {bytes} bytes");
        }
    }
    // No directories, then a million changes.
    let mut message = vec![4, 0];
    message.extend(varint(1 << 20));
    message.resize(LARGE, 0);
    let bytes = peak(|| assert_eq!(Message::receive(&message), Err(Refused::Form)));
    assert!(bytes <= 16 << 20, "{bytes} bytes");
}

proptest! {
    /// Any bytes from a child are a message or are refused.
    #[test]
    fn nonsense_is_refused(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
        let _ = Message::receive(&bytes);
    }

    /// A message with changed bytes is either valid or refused.
    #[test]
    fn changed_messages_are_refused_or_harmless(
        which in 0..14_usize,
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
    ) {
        let mut bytes = sent(&Wire::of(&messages()[which]));
        for (at, byte) in changes {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        if let Ok(Message::Scanned(scanned)) = Message::receive(&bytes) {
            for change in scanned.changes {
                prop_assert!(!change.name.as_bytes().contains(&b'/'));
            }
        }
    }
}
