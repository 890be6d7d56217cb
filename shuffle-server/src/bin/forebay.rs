//! `forebay`: what an operator types. Everything is the library's [`shuffle_server::tool`].

use std::process::ExitCode;

fn main() -> ExitCode {
    shuffle_server::release::of(option_env!("BUILD_COMMIT"), option_env!("BUILD_DATE"));
    shuffle_server::tool::run(std::env::args_os())
}
