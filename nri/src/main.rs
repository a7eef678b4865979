//! The program: parses the command line, starts the plugin, and waits for a signal to end.

use std::io::Write as _;
use std::net::TcpListener;
use std::process::ExitCode;
use std::sync::Arc;

use nix::sys::signal::{SigSet, Signal};
use nvoci_nri::options::{Command, Options, parse};
use nvoci_nri::session;
use nvoci_nri::status::Status;
use nvoci_nri::text::log;

fn main() -> ExitCode {
    let options = match parse(std::env::args_os().skip(1), |name| std::env::var(name).ok()) {
        Ok(Command::Run(options)) => options,
        Ok(Command::Print(text)) => {
            let written = std::io::stdout().lock().write_all(text.as_bytes());
            return if written.is_ok() {
                ExitCode::SUCCESS
            } else {
                ExitCode::FAILURE
            };
        }
        Err(e) => {
            log(&format!("{e}; fix: see `nvoci-nri --help` [NVOCI-1001]"));
            return ExitCode::FAILURE;
        }
    };
    match run(options) {
        Ok(signal) => {
            log(&format!("{signal}: ends"));
            ExitCode::SUCCESS
        }
        Err(e) => {
            log(&e);
            ExitCode::FAILURE
        }
    }
}

/// Runs until a signal. The kernel ignores an unhandled SIGTERM of a pod's first process, so the
/// signals are blocked in all threads and received here.
fn run(options: Options) -> Result<Signal, String> {
    let signals: SigSet = [Signal::SIGTERM, Signal::SIGINT].into_iter().collect();
    signals
        .thread_block()
        .map_err(|e| format!("signals could not be blocked: {e}"))?;
    let status = Arc::new(Status::default());
    if let Some(address) = options.listen {
        let listener = TcpListener::bind(address).map_err(|e| {
            format!("{address} could not be bound: {e}; fix: choose another --listen address [NVOCI-5001]")
        })?;
        let status = Arc::clone(&status);
        spawn(move || status.serve(&listener))?;
    }
    spawn(move || session::forever(&options, &status))?;
    signals
        .wait()
        .map_err(|e| format!("no signal could be received: {e}"))
}

fn spawn<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<(), String> {
    std::thread::Builder::new()
        .spawn(work)
        .map(drop)
        .map_err(|e| format!("no thread could be started: {e}"))
}
