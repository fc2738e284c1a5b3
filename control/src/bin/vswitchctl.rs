//! The command of the switch's administrator; all of it is [`control::cli`].

use std::process::ExitCode;

fn main() -> ExitCode {
    control::cli::main()
}
