//! Disks whose base an NBD server has.

use std::time::Duration;

use rustix::process::Signal;
use tests::{Host, guest};

/// How long a killed server may take to end.
const PATIENCE: Duration = Duration::from_mins(1);

#[test]
fn a_guest_goes_on_when_its_base_is_here_and_the_server_is_gone() {
    let host = Host::shared();
    let microvm = host.microvm();
    let directory = host.fresh_path("far").display().to_string();
    host.must_run(&format!(
        "PATH=$PATH:/usr/sbin:/sbin; mkdir -p {directory}/files && cd {directory} && \
         dd if=/dev/urandom of=files/file bs=1M count=16 2>/dev/null && \
         mke2fs -q -F -t ext4 -d files base 32M"
    ));
    let serve = format!(
        "{microvm} image serve --nbd unix:{directory}/socket {directory}/base,format=raw,readonly"
    );
    let words: Vec<_> = serve.split(' ').map(str::to_owned).collect();
    let server = host.spawn(&words, None).unwrap();
    host.must_run(&format!(
        "cd {directory} && until [ -S socket ]; do sleep 0.1; done && \
         {microvm} image create -q -f flat -b 'nbd+unix:///?socket={directory}/socket' -F raw disk"
    ));
    let disk = format!("{directory}/disk");
    let mut vm = guest()
        .disk(&format!("{disk},format=flat,copy-on-read,prefetch"))
        .boot();
    // Who comes first copies it. Afterwards the guest knows nothing of what it has read.
    vm.shell("cat /dev/vda > /dev/null && echo 3 > /proc/sys/vm/drop_caches")
        .assert_success();
    server.signal(Signal::KILL).unwrap();
    server.output(PATIENCE).unwrap();
    let sum = host.must_run(&format!("sha256sum < {directory}/files/file"));
    vm.shell("sha256sum < /disk/file").assert_stdout(sum.trim());
    vm.power_off().assert_status(0);
    let info = host.must_run(&format!("{microvm} image info -f flat '{disk}'"));
    assert!(!info.contains("backing file"), "{info}");
    host.must_run(&format!("rm -r {directory}"));
}
