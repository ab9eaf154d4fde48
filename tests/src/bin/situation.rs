//! `situation NAME`: a program in a situation that drivers meet seldom and must survive.
//!
//! It prints `ready` when it is in the situation, and `ok` when all was as it should be.
//! `situation NAME machine` expects what holds in a virtual machine.

#![allow(
    clippy::undocumented_unsafe_blocks,
    reason = "ash: nearly every call of Vulkan is unsafe, for the same reasons each time"
)]

use std::io::{Read as _, Write as _};
use std::process::ExitCode;
use std::sync::OnceLock;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use asgard_tests::gpu::Gpu;
use ash::vk;

/// What a lost device may take to say so, however many calls ask it.
const SOON: Duration = Duration::from_secs(1);
/// The same where a translator runs the program.
const SOON_IN_A_MACHINE: Duration = Duration::from_secs(60);

const HOST: vk::MemoryPropertyFlags = vk::MemoryPropertyFlags::HOST_VISIBLE;

fn main() -> ExitCode {
    let name = std::env::args().nth(1).unwrap_or_default();
    let done = match name.as_str() {
        "instance" => instance(),
        "wait" => wait(),
        "poll" => poll(),
        "polls" => polls(),
        "record" => record(),
        "children" => children(),
        "orphans" => orphans(),
        "memory" => memory(),
        "threads" => threads(),
        "fork" => fork(),
        "exit" => exit(),
        "unload" => unload(),
        _ => Err(anyhow::anyhow!("no situation is called {name:?}")),
    };
    match done {
        Ok(()) => {
            println!("ok");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("situation {name}: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Says that the situation has come.
fn ready() -> Result<()> {
    println!("ready");
    Ok(std::io::stdout().flush()?)
}

/// Waits until whoever started this program closes its input.
fn wait_for_end_of_input() -> Result<()> {
    std::io::stdin().read_to_end(&mut Vec::new())?;
    Ok(())
}

/// An instance can be created, or the error is named.
fn instance() -> Result<()> {
    let entry = unsafe { ash::Entry::load()? };
    let info = vk::InstanceCreateInfo::default();
    match unsafe { entry.create_instance(&info, None) } {
        Ok(instance) => unsafe { instance.destroy_instance(None) },
        Err(error) => println!("{error:?}"),
    }
    Ok(())
}

/// A lost device says so to every call, at once.
fn is_lost(gpu: &Gpu) -> Result<()> {
    let lost = vk::Result::ERROR_DEVICE_LOST;
    let start = Instant::now();
    for _ in 0..1000 {
        ensure!(unsafe { gpu.device.device_wait_idle() } == Err(lost));
    }
    let info = vk::FenceCreateInfo::default();
    let created = unsafe { gpu.device.create_fence(&info, None) };
    let machine = std::env::args()
        .nth(2)
        .is_some_and(|word| word == "machine");
    ensure!(created.is_err(), "a new object after the loss");
    // Other threads of the program too.
    let other = thread::scope(|scope| {
        let call = || unsafe { gpu.device.device_wait_idle() };
        scope.spawn(call).join().ok()
    });
    ensure!(other == Some(Err(lost)), "another thread gets {other:?}");
    let soon = if machine { SOON_IN_A_MACHINE } else { SOON };
    ensure!(start.elapsed() < soon, "it took {:?}", start.elapsed());
    Ok(())
}

/// The renderer goes while this waits for a fence that nothing will signal.
fn wait() -> Result<()> {
    let gpu = Gpu::new(false)?;
    let gate = gpu.timeline(0)?;
    let fence = gpu.fence()?;
    let (gates, stages) = ([*gate], [vk::PipelineStageFlags::ALL_COMMANDS]);
    let mut values = vk::TimelineSemaphoreSubmitInfo::default().wait_semaphore_values(&[1]);
    let info = vk::SubmitInfo::default()
        .wait_semaphores(&gates)
        .wait_dst_stage_mask(&stages)
        .push_next(&mut values);
    gpu.submit(&info, *fence)?;
    ready()?;
    let waited = unsafe { gpu.device.wait_for_fences(&[*fence], true, u64::MAX) };
    ensure!(waited == Err(vk::Result::ERROR_DEVICE_LOST), "{waited:?}");
    is_lost(&gpu)
}

/// What is pending is polled very often, and then happens.
fn polls() -> Result<()> {
    const POLLS: usize = 20_000;
    let gpu = Gpu::new(false)?;
    let (gate, reached) = (gpu.timeline(0)?, gpu.timeline(0)?);
    let fence = gpu.fence()?;
    for round in 1..=3 {
        let (waits, signals) = ([round], [round]);
        let (gates, reaches) = ([*gate], [*reached]);
        let stages = [vk::PipelineStageFlags::ALL_COMMANDS];
        let mut values = vk::TimelineSemaphoreSubmitInfo::default()
            .wait_semaphore_values(&waits)
            .signal_semaphore_values(&signals);
        let info = vk::SubmitInfo::default()
            .wait_semaphores(&gates)
            .wait_dst_stage_mask(&stages)
            .signal_semaphores(&reaches)
            .push_next(&mut values);
        gpu.submit(&info, *fence)?;
        let lit = || unsafe { gpu.device.get_fence_status(*fence) };
        let value = || unsafe { gpu.device.get_semaphore_counter_value(*reached) };
        for _ in 0..POLLS {
            ensure!(!lit()? && value()? == round - 1);
        }
        let open = vk::SemaphoreSignalInfo::default()
            .semaphore(*gate)
            .value(round);
        unsafe { gpu.device.signal_semaphore(&open)? };
        while !lit()? {}
        ensure!(value()? == round);
        unsafe { gpu.device.reset_fences(&[*fence])? };
    }
    Ok(())
}

/// The renderer goes while this polls what nothing will signal, each in a thread that does nothing else.
fn poll() -> Result<()> {
    let gpu = Gpu::new(false)?;
    let gate = gpu.timeline(0)?;
    let (pending, unused) = (gpu.fence()?, gpu.fence()?);
    let event = unsafe {
        gpu.device
            .create_event(&vk::EventCreateInfo::default(), None)?
    };
    let event = gpu.own(event);
    let (gates, stages) = ([*gate], [vk::PipelineStageFlags::ALL_COMMANDS]);
    let mut values = vk::TimelineSemaphoreSubmitInfo::default().wait_semaphore_values(&[1]);
    let info = vk::SubmitInfo::default()
        .wait_semaphores(&gates)
        .wait_dst_stage_mask(&stages)
        .push_next(&mut values);
    gpu.submit(&info, *pending)?;
    let device = &gpu.device;
    let (fences, signal) = ([*unused], [*gate]);
    let reached = vk::SemaphoreWaitInfo::default()
        .semaphores(&signal)
        .values(&[1]);
    let late = |waited: ash::prelude::VkResult<()>| match waited {
        Err(vk::Result::TIMEOUT) => Ok(false),
        other => other.map(|()| true),
    };
    type Question<'a> = &'a (dyn Fn() -> ash::prelude::VkResult<bool> + Sync);
    let questions: [Question<'_>; 6] = unsafe {
        [
            &|| device.get_fence_status(*pending),
            &|| device.get_fence_status(*unused),
            &|| {
                device
                    .get_semaphore_counter_value(*gate)
                    .map(|value| value > 0)
            },
            &|| device.get_event_status(*event),
            &|| late(device.wait_for_fences(&fences, true, 0)),
            &|| late(device.wait_semaphores(&reached, 0)),
        ]
    };
    let polling = std::sync::Barrier::new(questions.len() + 1);
    thread::scope(|scope| {
        let all: Vec<_> = questions
            .map(|question| {
                let polling = &polling;
                scope.spawn(move || {
                    let first = question();
                    polling.wait();
                    let start = Instant::now();
                    loop {
                        match question() {
                            Ok(false) if start.elapsed() < Duration::from_secs(10) => {}
                            other => return (first, other),
                        }
                    }
                })
            })
            .into_iter()
            .collect();
        polling.wait();
        ready()?;
        for (number, thread) in all.into_iter().enumerate() {
            let (first, last) = thread.join().ok().context("a thread panicked")?;
            ensure!(first == Ok(false), "question {number}: {first:?}");
            let lost = Err(vk::Result::ERROR_DEVICE_LOST);
            ensure!(last == lost, "question {number}: {last:?}");
        }
        Ok(())
    })?;
    is_lost(&gpu)
}

/// The renderer goes while this records and submits, and waits for nothing.
fn record() -> Result<()> {
    let gpu = Gpu::new(false)?;
    let buffer = gpu.buffer(1 << 16, vk::BufferUsageFlags::TRANSFER_DST)?;
    let pool = gpu.command_pool()?;
    // As many as are submitted between two waits: one that is pending must not be recorded again.
    let cmds = gpu.command_buffers(*pool, vk::CommandBufferLevel::PRIMARY, 16)?;
    for (round, cmd) in cmds.iter().cycle().enumerate() {
        gpu.record(*cmd, |device, cmd| {
            for i in 0..1000 {
                unsafe { device.cmd_fill_buffer(cmd, *buffer.handle, i % 64 * 4, 4, i as u32) };
            }
        })?;
        let info = vk::SubmitInfo::default().command_buffers(std::slice::from_ref(cmd));
        let queue = *gpu.queues[0].lock().expect("a submit panicked");
        let submitted = unsafe { gpu.device.queue_submit(queue, &[info], vk::Fence::null()) };
        let idle = match submitted {
            // Now and then, so that submitting is the rule.
            Ok(()) if round % 16 == 0 => unsafe { gpu.device.queue_wait_idle(queue) },
            other => other,
        };
        if round == 16 {
            ready()?;
        }
        if let Err(error) = submitted.and(idle) {
            ensure!(error == vk::Result::ERROR_DEVICE_LOST, "{error:?}");
            return is_lost(&gpu);
        }
    }
    Ok(())
}

/// Objects of many kinds that nobody destroys.
fn litter(gpu: &Gpu) -> Result<()> {
    let usage = vk::BufferUsageFlags::STORAGE_BUFFER;
    std::mem::forget(gpu.buffer(1 << 20, usage)?);
    std::mem::forget(gpu.device_buffer(1 << 20, usage)?);
    std::mem::forget(gpu.fence()?);
    std::mem::forget(gpu.semaphore()?);
    std::mem::forget(gpu.timeline(3)?);
    std::mem::forget(gpu.sampler(vk::Filter::LINEAR)?);
    std::mem::forget(gpu.set_layout(
        &[vk::DescriptorType::STORAGE_BUFFER],
        vk::ShaderStageFlags::COMPUTE,
    )?);
    let pool = gpu.command_pool()?;
    let cmd = gpu.command_buffers(*pool, vk::CommandBufferLevel::PRIMARY, 8)?;
    let begin = vk::CommandBufferBeginInfo::default();
    unsafe { gpu.device.begin_command_buffer(cmd[0], &begin)? };
    std::mem::forget(pool);
    gpu.run(|_, _| {})
}

/// Devices that end with live children, again and again.
fn children() -> Result<()> {
    for round in 0..20 {
        let gpu = Gpu::new(false)?;
        litter(&gpu)?;
        drop(gpu);
        if round == 9 {
            ready()?;
        }
    }
    wait_for_end_of_input()
}

/// Instances that end with live devices.
fn orphans() -> Result<()> {
    for _ in 0..5 {
        let gpu = Gpu::new(false)?;
        litter(&gpu)?;
        unsafe { gpu.instance.destroy_instance(None) };
        std::mem::forget(gpu);
    }
    // The next one is as good as ever.
    Gpu::new(false)?.run(|_, _| {})
}

/// More memory than there is.
fn memory() -> Result<()> {
    let gpu = Gpu::new(false)?;
    let kind = gpu.memory_type(!0, HOST)?;
    let allocate = |size| {
        let info = vk::MemoryAllocateInfo::default()
            .allocation_size(size)
            .memory_type_index(kind);
        unsafe { gpu.device.allocate_memory(&info, None) }
    };
    let none = vk::Result::ERROR_OUT_OF_DEVICE_MEMORY;
    for size in [1 << 40, 1 << 62, u64::MAX - 4095, u64::MAX] {
        let got = allocate(size);
        ensure!(got == Err(none), "{size:#x} bytes give {got:?}");
    }
    // Until the limit, twice: what is given back can be had again.
    for _ in 0..2 {
        let mut all = Vec::new();
        let error = loop {
            match allocate(16 << 20) {
                Ok(memory) => all.push(memory),
                Err(error) => break error,
            }
            ensure!(all.len() < 64, "there is no limit");
        };
        ensure!(error == none, "{error:?}");
        ensure!(all.len() >= 8, "only {} allocations", all.len());
        for memory in all {
            unsafe { gpu.device.free_memory(memory, None) };
        }
    }
    gpu.run(|_, _| {})
}

/// Many threads with command pools of their own, which end before the program does.
fn threads() -> Result<()> {
    let gpu = Gpu::new(false)?;
    gpu.run(|_, _| {})?;
    let work = |number: u32| -> Result<()> {
        let buffer = gpu.buffer(4096, vk::BufferUsageFlags::TRANSFER_DST)?;
        for round in 0..4 {
            let value = number << 8 | round;
            gpu.run(|device, cmd| unsafe {
                device.cmd_fill_buffer(cmd, *buffer.handle, 0, vk::WHOLE_SIZE, value);
            })?;
            ensure!(buffer.words().iter().all(|word| *word == value));
        }
        Ok(())
    };
    thread::scope(|scope| {
        let work = &work;
        let all: Vec<_> = (0..64).map(|n| scope.spawn(move || work(n))).collect();
        for thread in all {
            thread.join().ok().context("a thread panicked")??;
        }
        anyhow::Ok(())
    })?;
    ready()?;
    wait_for_end_of_input()?;
    gpu.run(|_, _| {})
}

/// A child that goes on without another program.
fn fork() -> Result<()> {
    let gpu = Gpu::new(false)?;
    gpu.run(|_, _| {})?;
    let children: [fn(&Gpu) -> Result<()>; 3] = [
        |_| Ok(()),
        // The parent's device is not the child's.
        |gpu| {
            let got = unsafe { gpu.device.device_wait_idle() };
            ensure!(got == Err(vk::Result::ERROR_DEVICE_LOST), "{got:?}");
            Ok(())
        },
        // One of its own is.
        |_| Gpu::new(false)?.run(|_, _| {}),
    ];
    for (number, in_child) in children.iter().enumerate() {
        let child = unsafe { libc::fork() };
        if child == 0 {
            let done = in_child(&gpu);
            if let Err(error) = &done {
                eprintln!("child {number}: {error:#}");
            }
            // With the destructors of this thread, as programs do.
            unsafe { libc::exit(i32::from(done.is_err())) };
        }
        // At the same time as the child.
        for _ in 0..20 {
            gpu.run(|_, _| {})?;
        }
        let mut status = 0;
        ensure!(unsafe { libc::waitpid(child, &raw mut status, 0) } == child);
        ensure!(status == 0, "child {number} ended with {status:#x}");
        gpu.run(|_, _| {}).context("after the child")?;
    }
    Ok(())
}

/// A device that is destroyed when the program's threads have ended, as by destructors of static objects.
fn exit() -> Result<()> {
    static GPU: OnceLock<Gpu> = OnceLock::new();
    extern "C" fn last() {
        let gpu = GPU.get().expect("it is set");
        gpu.run(|_, _| {}).expect("the device works to the end");
        unsafe {
            gpu.device.destroy_device(None);
            gpu.instance.destroy_instance(None);
        }
        println!("destroyed");
    }
    unsafe { libc::atexit(last) };
    let gpu = Gpu::new(false)?;
    gpu.run(|_, _| {})?;
    if GPU.set(gpu).is_err() {
        bail!("set twice");
    }
    Ok(())
}

/// The loader loads and unloads the driver, from threads that come and go.
fn unload() -> Result<()> {
    for _ in 0..20 {
        let round = || Gpu::new(false)?.run(|_, _| {});
        thread::spawn(round).join().ok().context("a panic")??;
    }
    Ok(())
}
