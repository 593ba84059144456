//! The `kasho` program.

use std::process::ExitCode;

fn main() -> ExitCode {
    kasho::cli::main(std::env::args_os())
}
