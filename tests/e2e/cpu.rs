//! A processor that the programs are not compiled for: they say so, and do not die of an illegal
//! instruction.

#![cfg(target_arch = "x86_64")]

use std::process::Command;

use shuffle_tests::{server::binary, skipped};

/// Needs qemu-x86_64 (Debian's qemu-user), which runs a program on any processor.
#[test]
fn a_processor_that_lacks_instructions_is_told_by_what_it_lacks() {
    let server = binary();
    for program in ["forebay-server", "forebay"] {
        let program = server.with_file_name(program);
        let run = Command::new("qemu-x86_64")
            .args(["-cpu", "qemu64"])
            .arg(&program)
            .arg("--help")
            .output();
        let answer = match run {
            Ok(answer) => answer,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                return skipped("no qemu-x86_64 here: apt-get install qemu-user");
            }
            Err(error) => panic!("qemu-x86_64: {error}"),
        };
        let said = String::from_utf8_lossy(&answer.stderr);
        assert_eq!(
            answer.status.code(),
            Some(1),
            "{}: {said}",
            program.display()
        );
        assert!(
            said.contains("SSE4.2") && said.contains("CPU type"),
            "{said}"
        );
    }
}
