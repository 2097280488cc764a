//! The console on pipes and on a terminal.

use tests::guest;

const CTRL_A: &str = "\u{1}";

#[test]
fn piped_input_that_ends_reaches_the_guest_whole() {
    let mut vm = guest().start();
    let lines: Vec<_> = (0..200).map(|n| format!("echo line-{n}-")).collect();
    vm.write(&format!("{}\nexit 0\n", lines.join("\n")));
    vm.close_stdin();
    let ended = vm.wait();
    ended.assert_status(0);
    for n in 0..200 {
        ended.assert_console(&format!("line-{n}-"));
    }
}

#[test]
fn large_output_arrives_whole() {
    let mut vm = guest().boot();
    // More than twice what a serial port of Linux keeps, which is a page.
    let shell = vm.shell("seq 1 2000");
    let expected: Vec<_> = (1..=2000).map(|n: u32| n.to_string()).collect();
    assert!(
        shell.text == expected.join("\n"),
        "{} bytes came",
        shell.text.len()
    );
    vm.power_off().assert_status(0);
}

#[test]
fn ctrl_a_x_quits_and_the_terminal_is_as_before() {
    let settings = "echo settings=$(stty -g).";
    let mut vm = guest().on_terminal().between(settings, settings).start();
    vm.expect("settings=");
    let before = vm.expect(".");
    vm.wait_for_prompt();
    vm.write(&format!("{CTRL_A}x"));
    vm.expect("settings=");
    let after = vm.expect(".");
    assert_eq!(before, after);
    vm.wait().assert_status(0);
}

#[test]
fn ctrl_c_on_a_terminal_is_the_guests() {
    let mut vm = guest().on_terminal().boot();
    vm.write("sh -c 'trap \"echo caught; exit\" INT; echo ready; while :; do sleep 1; done'\n");
    vm.expect("ready\n");
    vm.write("\u{3}");
    vm.expect("caught\n");
    vm.power_off().assert_status(0);
}

#[test]
fn ctrl_a_c_pauses_until_pressed_again() {
    let mut vm = guest().on_terminal().boot();
    vm.write(&format!("{CTRL_A}c"));
    vm.expect("paused");
    vm.write(&format!("{CTRL_A}c"));
    vm.shell("echo awake").assert_contains("awake");
    vm.power_off().assert_status(0);
}

#[test]
fn console_to_a_file() {
    let host = tests::Host::shared();
    let log = host.fresh_path("console.log").display().to_string();
    let vm = guest()
        .with(&["--console", &format!("file={log}")])
        .cmdline("rdinit=/nowhere")
        .start();
    vm.wait().assert_status(3);
    assert!(
        host.must_run(&format!("cat '{log}'"))
            .contains("Kernel panic")
    );
}
