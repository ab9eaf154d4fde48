//! `asgard run` and the smaller commands.

use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

use rustix::process::Signal;

use crate::support::{Server, asgard, children_of, eventually, is_alive, kill};

/// A directory with everything that `asgard run` looks for.
fn pieces() -> (tempfile::TempDir, PathBuf, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let icd = dir.path().join("gfxstream.json");
    let json = r#"{"file_format_version": "1.0.0", "ICD": {"library_path": "libvulkan_gfxstream.so", "api_version": "1.1.305"}}"#;
    std::fs::write(&icd, json).unwrap();
    // The dynamic linker warns of an empty library, and goes on.
    let preload = dir.path().join("libasgard_preload.so");
    std::fs::write(&preload, "").unwrap();
    (dir, icd, preload)
}

fn run(icd: &PathBuf, preload: &PathBuf) -> Command {
    let mut command = asgard();
    command
        .env("ASGARD_PRELOAD", preload)
        .arg("run")
        .arg("--renderer=null")
        .arg("--icd")
        .arg(icd);
    command
}

fn shell(script: &str) -> Output {
    let (_dir, icd, preload) = pieces();
    run(&icd, &preload)
        .args(["--", "sh", "-c", script])
        .output()
        .unwrap()
}

#[test]
fn the_exit_code_is_the_programs() {
    assert_eq!(shell("exit 0").status.code(), Some(0));
    assert_eq!(shell("exit 7").status.code(), Some(7));
    assert_eq!(shell("kill -KILL $$").status.code(), Some(128 + 9));
    let (_dir, icd, preload) = pieces();
    let missing = run(&icd, &preload)
        .args(["--", "/no/such/program"])
        .output()
        .unwrap();
    assert_eq!(missing.status.code(), Some(127));
    let forbidden = run(&icd, &preload).arg("--").arg(&icd).output().unwrap();
    assert_eq!(forbidden.status.code(), Some(126));
}

#[test]
fn the_program_finds_the_guest_driver_and_the_socket() {
    let output = shell(
        "echo $VK_DRIVER_FILES; echo $VK_ICD_FILENAMES; echo $LD_PRELOAD; test -S $ASGARD_KUMQUAT_SOCKET && echo socket",
    );
    let said = String::from_utf8(output.stdout).unwrap();
    let lines: Vec<&str> = said.lines().collect();
    assert!(
        lines[0].ends_with("gfxstream.json") && lines[1] == lines[0],
        "{said}"
    );
    assert!(lines[2].ends_with("libasgard_preload.so"), "{said}");
    assert_eq!(lines[3], "socket");
    let told = String::from_utf8(output.stderr).unwrap();
    assert!(told.contains("the program did not use Vulkan"), "{told}");
}

#[test]
fn quiet_is_quiet() {
    let (_dir, icd, preload) = pieces();
    let output = run(&icd, &preload)
        .args(["--quiet", "--", "true"])
        .output()
        .unwrap();
    let told = String::from_utf8(output.stderr).unwrap();
    assert!(!told.contains("asgard:"), "{told}");
}

#[test]
fn signals_reach_the_program_and_nothing_stays() {
    let (_dir, icd, preload) = pieces();
    let script = "trap 'exit 3' TERM; echo $ASGARD_KUMQUAT_SOCKET; while :; do sleep 0.05; done";
    let mut child = run(&icd, &preload)
        .args(["--", "sh", "-c", script])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut socket = String::new();
    std::io::BufRead::read_line(
        &mut std::io::BufReader::new(child.stdout.take().unwrap()),
        &mut socket,
    )
    .unwrap();
    let children = children_of(child.id());
    assert!(!children.is_empty());
    kill(child.id(), Signal::TERM);
    assert_eq!(child.wait().unwrap().code(), Some(3));
    let socket = PathBuf::from(socket.trim());
    assert!(!socket.exists() && !socket.parent().unwrap().exists());
    eventually("no process stays", || {
        children.iter().all(|pid| !is_alive(*pid))
    });
}

#[test]
fn a_running_server_can_be_used() {
    let server = Server::start();
    let (_dir, icd, preload) = pieces();
    let mut command = run(&icd, &preload);
    command.arg("--connect").arg(&server.socket).args([
        "--",
        "sh",
        "-c",
        "echo $ASGARD_KUMQUAT_SOCKET",
    ]);
    let output = command.output().unwrap();
    assert_eq!(
        String::from_utf8(output.stdout).unwrap().trim(),
        server.socket.to_str().unwrap()
    );
}

#[test]
fn missing_pieces_are_named_with_what_mends_them() {
    let (dir, icd, preload) = pieces();
    let gone = dir.path().join("gone");
    let output = run(&icd, &gone).args(["--", "true"]).output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(
        said.contains("libasgard_preload.so") && said.contains("cargo build"),
        "{said}"
    );
    let output = run(&gone, &preload).args(["--", "true"]).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let mut command = asgard();
    command
        .env("ASGARD_DRIVER", &gone)
        .env("ASGARD_PRELOAD", &preload)
        .env("HOME", dir.path());
    for variable in [
        "XDG_CONFIG_HOME",
        "XDG_CONFIG_DIRS",
        "XDG_DATA_HOME",
        "XDG_DATA_DIRS",
    ] {
        command.env(variable, dir.path());
    }
    let output = command
        .args(["run", "--renderer=null", "--", "true"])
        .output()
        .unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(
        said.contains("libvulkan_asgard.so is neither")
            && said.contains("gfxstream driver is not installed"),
        "{said}"
    );
}

#[test]
fn our_own_driver_is_taken_and_mesas_where_there_is_no_other() {
    let (dir, icd, preload) = pieces();
    let driver = dir.path().join("libvulkan_asgard.so");
    std::fs::write(&driver, "").unwrap();
    let manifests = dir.path().join("data/vulkan/icd.d");
    std::fs::create_dir_all(&manifests).unwrap();
    std::fs::copy(&icd, manifests.join("gfxstream.json")).unwrap();
    let run = |driver: &PathBuf, args: &[&str]| {
        let mut command = asgard();
        command
            .env("ASGARD_DRIVER", driver)
            .env("ASGARD_PRELOAD", &preload)
            .env("XDG_CONFIG_HOME", dir.path().join("data"))
            .arg("run")
            .args(args)
            .args(["--renderer=null", "-q", "--"])
            .args(["sh", "-c", "cat $VK_DRIVER_FILES; echo; echo $LD_PRELOAD"]);
        let output = command.output().unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        (
            output.status.code(),
            text(output.stdout),
            text(output.stderr),
        )
    };
    let (own, gone) = (driver.to_str().unwrap(), dir.path().join("gone"));

    for args in [&[][..], &["--driver", "asgard"]] {
        let (code, said, told) = run(&driver, args);
        assert_eq!((code, told.as_str()), (Some(0), ""), "{args:?}");
        assert!(
            said.contains(own) && !said.contains("preload"),
            "{args:?}: {said}"
        );
    }
    let (_, said, told) = run(&driver, &["--driver", "mesa"]);
    assert!(
        said.contains("libvulkan_gfxstream.so") && said.contains("libasgard_preload.so"),
        "{said}"
    );
    assert!(!told.contains("asgard:"), "{told}");
    let (code, said, told) = run(&gone, &[]);
    assert_eq!(code, Some(0));
    assert!(said.contains("libvulkan_gfxstream.so"), "{said}");
    assert!(
        told.contains("libvulkan_asgard.so is neither") && told.contains("taking Mesa's driver"),
        "{told}"
    );
    let (code, _, told) = run(&gone, &["--driver", "asgard"]);
    assert_eq!(code, Some(1));
    assert!(told.contains("cargo build"), "{told}");
}

#[test]
fn the_small_commands_speak() {
    let manual = asgard().arg("man").output().unwrap();
    assert!(String::from_utf8_lossy(&manual.stdout).contains(".TH asgard"));
    for shell in ["bash", "zsh", "fish"] {
        let script = asgard().args(["completions", shell]).output().unwrap();
        assert!(script.status.success() && script.stdout.len() > 1000);
    }
    for help in [["run", "--help"], ["serve", "--help"], ["doctor", "--help"]] {
        let output = asgard().args(help).output().unwrap();
        assert!(output.status.success());
    }
    let doctor = asgard().args(["doctor", "--json"]).output().unwrap();
    let json: serde_json::Value = serde_json::from_slice(&doctor.stdout).unwrap();
    assert_eq!(json["ok"].as_bool(), Some(doctor.status.success()));
    assert!(json["findings"].as_array().unwrap().len() > 4);
}
