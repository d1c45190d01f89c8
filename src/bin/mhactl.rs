//! The operator's tool.

use std::process::ExitCode;

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    mha::cli::run(std::env::args_os()).await
}
