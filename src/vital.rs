//! Tasks without which a service would run on and do nothing: a cluster that nobody watches would show its last state for ever. A defect that
//! ends one ends the process, and the service manager starts it again.

use std::any::Any;
use std::panic::AssertUnwindSafe;

use futures::FutureExt as _;

/// Runs `work`, which is named `what` in the log. Where it panics the process is aborted.
pub(crate) async fn vital<T>(what: &'static str, work: impl Future<Output = T>) -> T {
    match AssertUnwindSafe(work).catch_unwind().await {
        Ok(done) => done,
        Err(panic) => {
            let why = said(panic.as_ref());
            tracing::error!(
                task = what,
                why,
                "a defect has ended a task that the service needs; the process ends, for its service manager to start it again"
            );
            std::process::abort()
        }
    }
}

fn said(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("a panic without words")
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt as _;
    use std::process::Command;

    use super::*;

    const ASKED: &str = "MHA_TEST_DEFECT";

    /// Runs itself anew, for it must not survive.
    #[test]
    fn a_defect_ends_the_process() {
        if std::env::var_os(ASKED).is_some() {
            vital("tested", async { panic!("on purpose") }).now_or_never();
            return;
        }
        let this = std::env::current_exe().unwrap();
        let mut again = Command::new(this);
        again.args(["--exact", "vital::tests::a_defect_ends_the_process"]).env(ASKED, "1");
        let ended = again.output().unwrap().status;
        assert_eq!(ended.signal(), Some(libc::SIGABRT), "{ended}");
    }

    #[tokio::test]
    async fn what_is_done_is_handed_on() {
        assert_eq!(vital("tested", async { 7 }).await, 7);
    }
}
