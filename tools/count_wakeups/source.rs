//! Which function of a C file a line belongs to, and what the shim calls the kernel's functions.
//!
//! The compiler inlines most functions, but remembers of each instruction the line that it comes
//! from. So the lines tell more than the symbols.
//!
//! Invariant: the files are in the kernel's style: a function's body is between two braces in the
//! first column.

use std::collections::BTreeMap;

/// The functions of a file, in their sequence.
pub struct Functions(Vec<Function>);

struct Function {
    name: String,
    first: u32,
    last: u32,
}

impl Functions {
    /// The functions of a file with this text.
    pub fn of(text: &str) -> Functions {
        let lines: Vec<&str> = text.lines().collect();
        let mut functions = Vec::new();
        for (open, _) in lines.iter().enumerate().filter(|(_, line)| **line == "{") {
            let head = lines[..open]
                .iter()
                .rposition(|line| line.is_empty() || line.starts_with('}') || line.ends_with("*/"))
                .map_or(0, |before| before + 1);
            let close = (open..lines.len()).find(|&at| lines[at] == "}");
            let name = name_in(&lines[head..open].join(" "));
            if let (Some(close), Some(name)) = (close, name) {
                functions.push(Function { name, first: head as u32 + 1, last: close as u32 + 1 });
            }
        }
        Functions(functions)
    }

    /// The function that a line belongs to, and its place in the file.
    pub fn at(&self, line: u32) -> Option<(usize, &str)> {
        let place = self.0.iter().position(|it| (it.first..=it.last).contains(&line))?;
        Some((place, &self.0[place].name))
    }

    /// The place in the file of the function with this name.
    pub fn place(&self, name: &str) -> Option<usize> {
        self.0.iter().position(|it| it.name == name)
    }
}

/// The name in the head of a function. BPF programs have theirs in the brackets of a macro.
fn name_in(head: &str) -> Option<String> {
    let is_part = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let head = head.rsplit_once("SEC(").map_or(head, |(_, rest)| rest.split_once(')').unwrap().1);
    let (before, arguments) = head.split_once('(')?;
    let name = before.rsplit(|c| !is_part(c)).next()?;
    let name = match name.starts_with("BPF_") {
        true => arguments.split(|c| !is_part(c)).next()?,
        false => name,
    };
    (!name.is_empty()).then(|| name.to_owned())
}

/// The kernel's names of the simulator's functions, from the macros of the shim.
pub fn kernel_names(shim: &str) -> BTreeMap<String, String> {
    let is_part = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let text = shim.replace("\\\n", " ");
    let defines = text.lines().filter_map(|line| line.strip_prefix("#define "));
    defines
        .filter_map(|define| {
            let name: String = define.chars().take_while(|&c| is_part(c)).collect();
            let at = define.find("sim_")?;
            let of: String = define[at..].chars().take_while(|&c| is_part(c)).collect();
            Some((of, name))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "\
struct two {
\tint a;
};

/* Adds. */
static __always_inline bool add(struct two *t,
\t\t\t\tint b)
{
\tif (b) {
\t\treturn true;
\t}
\treturn t->a;
}

void BPF_STRUCT_OPS(manyland_running, struct task_struct *p)
{
\tadd(0, 0);
}

SEC(\"tp_btf/sched_process_exec\")
int BPF_PROG(note_exec, struct task_struct *p)
{
}
";

    #[test]
    fn a_line_belongs_to_the_function_around_it() {
        let functions = Functions::of(TEXT);
        let names: Vec<_> = (1..=23).map(|line| functions.at(line).map(|(_, name)| name)).collect();
        assert_eq!(names[..5], [None; 5]);
        assert_eq!(names[5..13], [Some("add"); 8]);
        assert_eq!(names[13], None);
        assert_eq!(names[14..18], [Some("manyland_running"); 4]);
        assert_eq!(names[19..23], [Some("note_exec"); 4]);
        assert_eq!(functions.place("note_exec"), Some(2));
    }

    #[test]
    fn the_shim_says_what_the_kernel_calls_a_function() {
        let shim = "#define scx_bpf_now sim_now\n\
            #define bpf_cast(x) (x)\n\
            #define bpf_ringbuf_query(ring, what) sim_pending(ring)\n\
            #define bpf_task_storage_get(map, p)  \\\n\t({ sim_create_storage(p); })\n";
        let names = kernel_names(shim);
        let of = |name: &str| names.get(name).map(String::as_str);
        assert_eq!(of("sim_now"), Some("scx_bpf_now"));
        assert_eq!(of("sim_pending"), Some("bpf_ringbuf_query"));
        assert_eq!(of("sim_create_storage"), Some("bpf_task_storage_get"));
        assert_eq!(names.len(), 3);
    }
}
