//! What a round trip costs while both ends spin, and how fast bytes pass, beside a plain copy.

use std::hint::black_box;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use asgard_asg::Mapping;
use asgard_asg::guest::{GuestChannel, GuestConfig, NoPing};
use asgard_asg::host::{HostChannel, HostConfig, Wake};
use asgard_asg::layout::blob_size;
use criterion::{Criterion, Throughput, criterion_group, criterion_main};

const SPIN: Duration = Duration::from_micros(50);

/// Runs `body` with a guest whose host answers each word that starts with 1 by that word.
fn with_echo(config: HostConfig, spin: Duration, body: impl FnOnce(&mut GuestChannel<NoPing>)) {
    let mem = Arc::new(Mapping::create(blob_size(config.buffer_size)).unwrap().0);
    let mut host = HostChannel::new(Arc::clone(&mem), config).unwrap();
    let doorbell = host.doorbell();
    let server = thread::spawn(move || {
        let mut input = Vec::new();
        loop {
            if host.recv(&mut input).unwrap() == 0 {
                match host.wait(spin) {
                    Wake::Data => continue,
                    _ => return host.counters(),
                }
            }
            // Transfers that want an answer end with 1.
            if input.last() == Some(&1) {
                host.send(&input[input.len() - 8..]).unwrap();
            }
            input.clear();
        }
    });
    let config = GuestConfig {
        same_kernel: true,
        spin,
    };
    let mut guest = GuestChannel::new(mem, config, NoPing).unwrap();
    body(&mut guest);
    doorbell.stop();
    let counters = server.join().unwrap();
    println!(
        "  guest: {} pings, {} sleeps; host: {counters:?}",
        guest.pings(),
        guest.sleeps()
    );
}

fn finish(guest: &mut GuestChannel<NoPing>) {
    let mut reply = [0; 8];
    guest.write(&[1; 8]).unwrap();
    guest.read_reply(&mut reply).unwrap();
}

fn ring(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("ring");
    group
        .sample_size(20)
        .warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_secs(2));

    with_echo(HostConfig::default(), SPIN, |guest| {
        group.bench_function("round trip of 8 bytes", |bencher| {
            bencher.iter(|| finish(guest));
        });
    });
    with_echo(HostConfig::default(), Duration::ZERO, |guest| {
        group.bench_function("round trip between sleepers", |bencher| {
            bencher.iter(|| finish(guest));
        });
    });
    for size in [64, 4096] {
        with_echo(HostConfig::default(), SPIN, |guest| {
            let bytes = vec![0; size];
            group.throughput(Throughput::Bytes(size as u64));
            group.bench_function(format!("chunks of {size} bytes"), |bencher| {
                bencher.iter(|| guest.write(&bytes).unwrap());
                finish(guest);
            });
        });
    }
    let wide = HostConfig {
        flush_interval: 32 << 10,
        ..HostConfig::default()
    };
    with_echo(wide, SPIN, |guest| {
        let bytes = vec![0; 32 << 10];
        group.throughput(Throughput::Bytes(bytes.len() as u64));
        group.bench_function("chunks of 32 KiB", |bencher| {
            bencher.iter(|| guest.write(&bytes).unwrap());
            finish(guest);
        });
    });
    for size in [64 << 10, 1 << 20, 4 << 20] {
        with_echo(HostConfig::default(), SPIN, |guest| {
            let bytes = vec![0; size];
            group.throughput(Throughput::Bytes(size as u64));
            group.bench_function(format!("transfers of {} KiB", size >> 10), |bencher| {
                bencher.iter(|| guest.write_async(&bytes).unwrap());
                finish(guest);
            });
        });
    }
    let mapping = Mapping::create(8 << 20).unwrap().0;
    for size in [64, 4096, 1 << 20] {
        let from = vec![1u8; size];
        let mut to = vec![0u8; size];
        group.throughput(Throughput::Bytes(size as u64));
        group.bench_function(format!("memcpy of {size} bytes"), |bencher| {
            bencher.iter(|| to.copy_from_slice(black_box(&from)));
        });
        group.bench_function(format!("copy in of {size} bytes"), |bencher| {
            bencher.iter(|| mapping.copy_in(64, black_box(&from)).unwrap());
        });
        group.bench_function(format!("copy out of {size} bytes"), |bencher| {
            bencher.iter(|| mapping.copy_out(64, black_box(&mut to)).unwrap());
        });
    }
    group.finish();
}

criterion_group!(benches, ring);
criterion_main!(benches);
