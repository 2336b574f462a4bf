//! Compiles bpf/ for the simulator, for `build.rs`.
//!
//! Invariant: the files of bpf/ are compiled as they are. The options of `bpf/state.bpf.h` are the
//! only list of options: a struct with the same names is made from it.

use anyhow::{Context, Result, ensure};
use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Names what the kernel side is checked for while it is simulated, in clang's words, separated by
/// commas. A fault ends the program.
const SANITIZE: &str = "SCX_MANYLAND_SANITIZE";
/// What the feature `sanitize` has it checked for.
const SANITIZERS: &str = "address,undefined";
const SHIM: &str = "src/simulator/shim";
const OPTIONS: &str = "bpf/state.bpf.h";

/// What the Rust side uses of `native.h`.
const TYPES: &str = "task_struct|task_ctx|cpumask|bpf_cpumask|css_set|cgroup|cgroup_subsys_state|cgroup_subsys_id|task_group|kernfs_node|heartbeat|slice_alarm|release_timer|\
    bpf_timer|bpf_dynptr|bpf_iter_scx_dsq|domain_mask|part|group_load|group_sum|active_word|sim_map|sim_map_number|sim_options|\
    scx_number|sched_ext_ops|scx_init_task_args|scx_cgroup_init_args|signal_struct|sched_entity|scx_exit_task_args|scx_exit_info|scx_dump_ctx|scx_cpu_release_args|run_kind|dsq_kind";
const VARIABLES: &str = "manyland_ops|PF_.*|SCX_.*|BPF_RB_.*";
const FUNCTIONS: &str = "sim_enter|sim_begin|mark_thread|note_exec";

/// Compiles the kernel side into a static library, and writes its Rust view to `bindings`.
pub fn build(clang: &str, out: &Path, bindings: &Path) -> Result<()> {
    println!("cargo:rerun-if-changed={SHIM}");
    write_options(out)?;
    let folders = [PathBuf::from(SHIM), PathBuf::from("bpf"), out.to_owned()];
    println!("cargo:rerun-if-env-changed={SANITIZE}");
    let checks = match env::var(SANITIZE) {
        Ok(checks) => sanitizers(&checks)?,
        Err(_) if env::var_os("CARGO_FEATURE_SANITIZE").is_some() => sanitizers(SANITIZERS)?,
        Err(_) => Vec::new(),
    };
    cc::Build::new()
        .compiler(clang)
        .file(Path::new(SHIM).join("native.c"))
        .includes(&folders)
        .std("gnu2x")
        .opt_level(2)
        .pic(true)
        .warnings(false)
        .flags(["-fno-strict-aliasing", "-fwrapv", "-fvisibility=hidden", "-fno-builtin-exit"])
        .flags(checks)
        .try_compile("manyland_native")
        .context("cannot compile the kernel side for the simulator")?;
    bindgen::Builder::default()
        .clang_args(folders.iter().map(|folder| format!("-I{}", folder.display())))
        .clang_arg("-std=gnu2x")
        .header(format!("{SHIM}/native.h"))
        .allowlist_recursively(false)
        .allowlist_type(TYPES)
        .allowlist_type("u8|u16|u32|s32|u64|s64|sched_ext_entity|carried|crowd")
        .blocklist_type("carried|crowd")
        .allowlist_var(VARIABLES)
        .allowlist_function(FUNCTIONS)
        .prepend_enum_name(false)
        .derive_default(false)
        .generate()
        .context("cannot generate bindings of the kernel side")?
        .write_to_file(bindings)
        .with_context(|| format!("cannot write {}", bindings.display()))
}

/// The compiler's flags for these checks.
fn sanitizers(checks: &str) -> Result<Vec<String>> {
    let mut flags = Vec::new();
    for check in checks.split(',').filter(|check| !check.is_empty()) {
        flags.push(format!("-fsanitize={check}"));
        match check {
            "address" => {
                // Such frames are dropped by the thread's stack, and paths that overlap have
                // stacks of their own.
                flags.push("-fsanitize-address-use-after-return=never".to_owned());
                link_address_sanitizer()?;
            }
            // It counts for a fuzzer, whose program has what it calls.
            "fuzzer-no-link" => (),
            _ => flags.push(format!("-fsanitize-trap={check}")),
        }
    }
    Ok(flags)
}

/// Links the run-time part of clang's AddressSanitizer, which Rust's compiler brings along, into all
/// programs and tests. It is part of LLVM, and works for the code of every clang since version 7.
fn link_address_sanitizer() -> Result<()> {
    let (rustc, target) = (env::var("RUSTC")?, env::var("TARGET")?);
    let output = Command::new(rustc).args(["--print", "sysroot"]).output()?;
    let sysroot = PathBuf::from(String::from_utf8(output.stdout)?.trim());
    let folder = sysroot.join("lib/rustlib").join(target).join("lib");
    let is_runtime = |path: &PathBuf| path.to_string_lossy().ends_with("_rt.asan.a");
    let mut files = std::fs::read_dir(&folder)?.flatten().map(|file| file.path());
    let runtime = files.find(is_runtime);
    let runtime = runtime.with_context(|| format!("no *_rt.asan.a in {}", folder.display()))?;
    for argument in ["-Wl,--whole-archive", &runtime.to_string_lossy(), "-Wl,--no-whole-archive"] {
        println!("cargo:rustc-link-arg={argument}");
    }
    for library in ["-lpthread", "-ldl", "-lrt", "-lm", "-lresolv"] {
        println!("cargo:rustc-link-arg={library}");
    }
    Ok(())
}

/// Makes a struct of the options, and a function that sets them from it.
fn write_options(out: &Path) -> Result<()> {
    let source = std::fs::read_to_string(OPTIONS)?;
    let options: Vec<(&str, &str)> = source
        .lines()
        .filter_map(|line| line.strip_prefix("OPTION ")?.split_once(';')?.0.split_once(' '))
        .collect();
    ensure!(!options.is_empty(), "{OPTIONS} declares no options");
    let fields: String = options.iter().map(|(kind, name)| format!("\t{kind} {name};\n")).collect();
    let set: String =
        options.iter().map(|(_, name)| format!("\t{name} = options->{name};\n")).collect();
    let text = format!(
        "struct sim_options {{\n{fields}}};\n\n\
         static inline void set_options(const struct sim_options *options)\n{{\n{set}}}\n"
    );
    std::fs::write(out.join("sim_options.h"), text)?;
    Ok(())
}
