fn main() -> anyhow::Result<()> {
    let m = asgard_codegen::load()?;
    println!("{} structs ({} foreign), {} commands ({} foreign)", m.structs.len(), m.structs.iter().filter(|s| s.foreign.is_some()).count(), m.commands.len(), m.commands.iter().filter(|s| s.foreign.is_some()).count());
    Ok(())
}
