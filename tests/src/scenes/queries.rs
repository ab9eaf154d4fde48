//! Occlusion, pipeline statistics and timestamps; of the timestamps only their order.

use anyhow::{Result, ensure};
use ash::vk;

use crate::draw::{Canvas, Square, Squares};
use crate::gpu::{Gpu, Own, barrier, words};
use crate::report::Report;
use crate::scenes::Options;

pub(super) fn run(gpu: &Gpu, _options: &Options, report: &mut Report) -> Result<()> {
    occlusion(gpu, report)?;
    statistics(gpu, report)?;
    timestamps(gpu, report)?;
    host_reset(gpu, report)
}

fn pool(
    gpu: &Gpu,
    kind: vk::QueryType,
    count: u32,
    statistics: vk::QueryPipelineStatisticFlags,
) -> Result<Own<'_, vk::QueryPool>> {
    let info = vk::QueryPoolCreateInfo::default()
        .query_type(kind)
        .query_count(count)
        .pipeline_statistics(statistics);
    Ok(gpu.own(unsafe { gpu.device.create_query_pool(&info, None)? }))
}

/// A square of `pixels` by `pixels` in the corner of a canvas of 64 by 64.
fn corner(pixels: u32, depth: f32) -> Square {
    let end = pixels as f32 / 32.0 - 1.0;
    Square { rect: [-1.0, -1.0, end, end], color: [1.0; 4], depth }
}

fn occlusion(gpu: &Gpu, report: &mut Report) -> Result<()> {
    const COUNT: u32 = 6;
    let precise = gpu.features.occlusion_query_precise == vk::TRUE;
    let flags = if precise { vk::QueryControlFlags::PRECISE } else { vk::QueryControlFlags::empty() };
    let canvas = Canvas::new(gpu, 64, 64)?;
    let squares = Squares::on(gpu, &canvas)?;
    let queries = pool(gpu, vk::QueryType::OCCLUSION, COUNT, Default::default())?;
    let copied = gpu.buffer_with(&[0xaau8; 256], vk::BufferUsageFlags::TRANSFER_DST)?;
    // What each query covers: nothing, a square, a hidden square, a half hidden one, two squares; the last is not begun.
    let drawn: [&[Square]; 5] = [
        &[],
        &[corner(8, 0.5)],
        &[corner(4, 0.75)],
        &[corner(16, 0.75)],
        &[corner(2, 0.25), corner(32, 0.25)],
    ];
    gpu.run(|device, cmd| unsafe {
        device.cmd_reset_query_pool(cmd, *queries, 0, COUNT);
        canvas.draw(device, cmd, vk::SubpassContents::INLINE, || {
            squares.bind(device, cmd);
            for (query, what) in (0..).zip(drawn) {
                device.cmd_begin_query(cmd, *queries, query, flags);
                for &square in what {
                    squares.put(device, cmd, square);
                }
                device.cmd_end_query(cmd, *queries, query);
            }
        });
        device.cmd_copy_query_pool_results(
            cmd,
            *queries,
            0,
            5,
            *copied.handle,
            16,
            24,
            vk::QueryResultFlags::TYPE_64 | vk::QueryResultFlags::WAIT | vk::QueryResultFlags::WITH_AVAILABILITY,
        );
        barrier(device, cmd);
    })?;
    let mut counts = [0u64; 5];
    let wait = vk::QueryResultFlags::TYPE_64 | vk::QueryResultFlags::WAIT;
    unsafe { gpu.device.get_query_pool_results(*queries, 0, &mut counts, wait)? }
    let mut narrow = [[0u32; 2]; 6];
    let available = vk::QueryResultFlags::WITH_AVAILABILITY;
    let state = unsafe { gpu.device.get_query_pool_results(*queries, 0, &mut narrow, available) };
    ensure!(state == Err(vk::Result::NOT_READY), "a query that never began is {state:?}");
    ensure!(narrow[5][1] == 0, "a query that never began is available");
    ensure!(narrow[4][1] == 1, "a finished query is not available");
    let mut copies = words(&copied.bytes());
    if precise {
        ensure!(counts == [0, 64, 0, 192, 1024 + 4], "the samples are {counts:?}");
    } else {
        // Only whether anything passed is promised.
        counts = counts.map(|count| u64::from(count > 0));
        ensure!(counts == [0, 1, 0, 1, 1], "the samples are {counts:?}");
        for query in 0..5 {
            let at = 4 + query * 6;
            copies[at] = u32::from(copies[at] > 0);
        }
    }
    for (query, count) in counts.iter().enumerate() {
        let at = 4 + query * 6;
        ensure!(u64::from(copies[at]) == *count, "query {query} was copied as {}", copies[at]);
        ensure!(copies[at + 2] == 1, "query {query} was copied unavailable");
    }
    report.part("occlusion", bytemuck::cast_slice(&counts));
    report.part("occlusion copied", bytemuck::cast_slice(&copies));
    Ok(())
}

fn statistics(gpu: &Gpu, report: &mut Report) -> Result<()> {
    let shown = gpu.features.pipeline_statistics_query == vk::TRUE;
    if !report.needs("statistics", shown, "pipelineStatisticsQuery is not shown") {
        return Ok(());
    }
    let drawn = vk::QueryPipelineStatisticFlags::INPUT_ASSEMBLY_VERTICES
        | vk::QueryPipelineStatisticFlags::INPUT_ASSEMBLY_PRIMITIVES
        | vk::QueryPipelineStatisticFlags::VERTEX_SHADER_INVOCATIONS
        | vk::QueryPipelineStatisticFlags::CLIPPING_INVOCATIONS;
    let computed = vk::QueryPipelineStatisticFlags::COMPUTE_SHADER_INVOCATIONS;
    let kind = vk::QueryType::PIPELINE_STATISTICS;
    let (draws, dispatches) = (pool(gpu, kind, 1, drawn)?, pool(gpu, kind, 1, computed)?);
    let canvas = Canvas::new(gpu, 64, 64)?;
    let squares = Squares::on(gpu, &canvas)?;
    let out = gpu.buffer_with(&[0u32; 64], vk::BufferUsageFlags::STORAGE_BUFFER)?;
    let wgsl = "
        @group(0) @binding(0) var<storage, read_write> out: array<u32>;
        @compute @workgroup_size(16)
        fn main(@builtin(global_invocation_id) id: vec3<u32>) { out[id.x] = id.x; }";
    let kernel = gpu.kernel(wgsl, &[&out], 0)?;
    let none = vk::QueryControlFlags::empty();
    gpu.run(|device, cmd| unsafe {
        device.cmd_reset_query_pool(cmd, *draws, 0, 1);
        device.cmd_reset_query_pool(cmd, *dispatches, 0, 1);
        device.cmd_begin_query(cmd, *draws, 0, none);
        canvas.draw(device, cmd, vk::SubpassContents::INLINE, || {
            squares.bind(device, cmd);
            for i in 0..7 {
                squares.put(device, cmd, corner(8 * i + 1, 0.5));
            }
        });
        device.cmd_end_query(cmd, *draws, 0);
        device.cmd_begin_query(cmd, *dispatches, 0, none);
        kernel.dispatch(device, cmd, &[], 4);
        device.cmd_end_query(cmd, *dispatches, 0);
    })?;
    let wait = vk::QueryResultFlags::TYPE_64 | vk::QueryResultFlags::WAIT;
    let (mut drawn, mut computed) = ([[0u64; 4]], [0u64]);
    unsafe {
        gpu.device.get_query_pool_results(*draws, 0, &mut drawn, wait)?;
        gpu.device.get_query_pool_results(*dispatches, 0, &mut computed, wait)?;
    }
    ensure!(drawn[0][..2] == [28, 14], "vertices and primitives are {drawn:?}");
    ensure!(computed == [64], "compute invocations are {computed:?}");
    let mut bytes = bytemuck::cast_slice(&drawn).to_vec();
    bytes.extend_from_slice(bytemuck::cast_slice(&computed));
    report.part("statistics", bytes);
    Ok(())
}

fn timestamps(gpu: &Gpu, report: &mut Report) -> Result<()> {
    let bits = gpu.family_properties.timestamp_valid_bits;
    if !report.needs("timestamps", bits > 0, "the queue family has no timestamps") {
        return Ok(());
    }
    let queries = pool(gpu, vk::QueryType::TIMESTAMP, 4, Default::default())?;
    let buffer = gpu.buffer(1 << 20, vk::BufferUsageFlags::TRANSFER_DST)?;
    gpu.run(|device, cmd| unsafe {
        device.cmd_reset_query_pool(cmd, *queries, 0, 4);
        for query in 0..4 {
            let stage = vk::PipelineStageFlags::BOTTOM_OF_PIPE;
            device.cmd_write_timestamp(cmd, stage, *queries, query);
            device.cmd_fill_buffer(cmd, *buffer.handle, 0, vk::WHOLE_SIZE, query);
            barrier(device, cmd);
        }
    })?;
    let mut times = [[0u64; 2]; 4];
    let flags = vk::QueryResultFlags::TYPE_64
        | vk::QueryResultFlags::WAIT
        | vk::QueryResultFlags::WITH_AVAILABILITY;
    unsafe { gpu.device.get_query_pool_results(*queries, 0, &mut times, flags)? }
    let ordered = times.windows(2).all(|pair| pair[0][0] <= pair[1][0]);
    ensure!(bits < 64 || ordered, "time runs backwards: {times:?}");
    ensure!(times.iter().all(|time| time[1] == 1 && time[0] != 0), "no time: {times:?}");
    report.part("timestamps", *b"ordered");
    Ok(())
}

fn host_reset(gpu: &Gpu, report: &mut Report) -> Result<()> {
    let shown = gpu.features12.host_query_reset == vk::TRUE;
    if !report.needs("host reset", shown, "hostQueryReset is not shown") {
        return Ok(());
    }
    let canvas = Canvas::new(gpu, 64, 64)?;
    let squares = Squares::on(gpu, &canvas)?;
    let queries = pool(gpu, vk::QueryType::OCCLUSION, 2, Default::default())?;
    let mut result = Vec::new();
    for round in 0..3u32 {
        unsafe { gpu.device.reset_query_pool(*queries, 0, 2) }
        let mut state = [[7u64; 2]; 2];
        let flags = vk::QueryResultFlags::TYPE_64 | vk::QueryResultFlags::WITH_AVAILABILITY;
        let ready = unsafe { gpu.device.get_query_pool_results(*queries, 0, &mut state, flags) };
        ensure!(ready == Err(vk::Result::NOT_READY), "after a reset the queries are {ready:?}");
        ensure!(state == [[7, 0]; 2], "results that are not there were written: {state:?}");
        gpu.run(|device, cmd| {
            canvas.draw(device, cmd, vk::SubpassContents::INLINE, || unsafe {
                squares.bind(device, cmd);
                device.cmd_begin_query(cmd, *queries, 1, vk::QueryControlFlags::empty());
                if round != 1 {
                    squares.put(device, cmd, corner(8, 0.5));
                }
                device.cmd_end_query(cmd, *queries, 1);
            });
        })?;
        let mut count = [0u64];
        let wait = vk::QueryResultFlags::TYPE_64 | vk::QueryResultFlags::WAIT;
        unsafe { gpu.device.get_query_pool_results(*queries, 1, &mut count, wait)? }
        ensure!((count[0] > 0) == (round != 1), "round {round} counted {count:?}");
        result.push(u8::from(count[0] > 0));
    }
    report.part("host reset", result);
    Ok(())
}
