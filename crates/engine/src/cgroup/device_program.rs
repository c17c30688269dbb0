//! Device rules on version 2 hosts: a small BPF program on the container's group (linux/bpf.h,
//! `BPF_PROG_TYPE_CGROUP_DEVICE`), where version 1 has the `devices` files.

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::path::Path;

use super::plan::DeviceRule;

/// `struct bpf_insn`: operation, registers (destination low), offset, immediate value.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Instruction {
    operation: u8,
    registers: u8,
    offset: i16,
    immediate: i32,
}

const fn instruction(operation: u8, destination: u8, source: u8, offset: i16, immediate: i32) -> Instruction {
    Instruction { operation, registers: destination | source << 4, offset, immediate }
}

/// The program that allows what some rule allows and denies the rest.
pub(crate) fn program(rules: &[DeviceRule]) -> Vec<Instruction> {
    // Registers: 2 the kind, 3 the access, 4 major, 5 minor; 1 is the context, then scratch.
    let mut all = vec![
        instruction(0x61, 2, 1, 0, 0),      // r2 = *(u32 *)(r1 + 0)
        instruction(0xbc, 3, 2, 0, 0),      // w3 = w2
        instruction(0x54, 2, 0, 0, 0xffff), // w2 &= 0xffff
        instruction(0x74, 3, 0, 0, 16),     // w3 >>= 16
        instruction(0x61, 4, 1, 4, 0),      // r4 = *(u32 *)(r1 + 4)
        instruction(0x61, 5, 1, 8, 0),      // r5 = *(u32 *)(r1 + 8)
    ];
    for rule in rules {
        let mut tests: Vec<Vec<Instruction>> = Vec::new();
        // `if register != value goto next`; the distance is filled in below.
        let unless = |register: u8, value: i32| vec![instruction(0x56, register, 0, 0, value)];
        match rule.kind {
            'b' => tests.push(unless(2, 1)),
            'c' => tests.push(unless(2, 2)),
            _ => {}
        }
        let access = [('m', 1), ('r', 2), ('w', 4)]
            .iter()
            .filter(|(letter, _)| rule.access.contains(*letter))
            .fold(0, |mask, (_, bit)| mask | bit);
        if access != 7 {
            // What is wanted must be within what is allowed: w1 = w3 & access; if w1 != w3 goto next.
            tests.push(vec![
                instruction(0xbc, 1, 3, 0, 0),
                instruction(0x54, 1, 0, 0, access),
                instruction(0x5e, 1, 3, 0, 0),
            ]);
        }
        for (register, number) in [(4, rule.major), (5, rule.minor)] {
            if let Some(number) = number {
                tests.push(unless(register, i32::try_from(number).unwrap_or(i32::MAX)));
            }
        }
        let mut block: Vec<Instruction> = tests.concat();
        block.extend([instruction(0xb7, 0, 0, 0, 1), instruction(0x95, 0, 0, 0, 0)]);
        let length = block.len();
        for (position, one) in block.iter_mut().enumerate() {
            if matches!(one.operation, 0x56 | 0x5e) {
                one.offset = i16::try_from(length - position - 1).unwrap_or(i16::MAX);
            }
        }
        all.extend(block);
    }
    all.extend([instruction(0xb7, 0, 0, 0, 0), instruction(0x95, 0, 0, 0, 0)]);
    all
}

/// The part of `union bpf_attr` that loading a program uses.
#[repr(C)]
#[derive(Default)]
struct LoadArguments {
    kind: u32,
    count: u32,
    instructions: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log: u64,
    kernel_version: u32,
    flags: u32,
}

/// The part of `union bpf_attr` that attaching a program uses.
#[repr(C)]
struct AttachArguments {
    target: u32,
    program: u32,
    kind: u32,
    flags: u32,
}

fn bpf<T>(command: libc::c_int, arguments: &T) -> io::Result<libc::c_long> {
    // SAFETY: the kernel reads `size_of::<T>()` bytes, and what they point to outlives the call.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, std::ptr::from_ref(arguments), size_of::<T>()) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

/// Puts the rules in force for the processes of a version 2 group. They end with the group.
pub(crate) fn attach(directory: &Path, rules: &[DeviceRule]) -> io::Result<()> {
    const LOAD: libc::c_int = 5;
    const ATTACH: libc::c_int = 8;
    const CGROUP_DEVICE_PROGRAM: u32 = 15;
    const CGROUP_DEVICE_HOOK: u32 = 6;
    const ALLOW_MULTI: u32 = 2;
    let group = File::open(directory)?;
    let instructions = program(rules);
    let arguments = LoadArguments {
        kind: CGROUP_DEVICE_PROGRAM,
        count: u32::try_from(instructions.len()).map_err(io::Error::other)?,
        instructions: instructions.as_ptr().addr() as u64,
        license: c"Apache-2.0".as_ptr().addr() as u64,
        ..LoadArguments::default()
    };
    let loaded = libc::c_int::try_from(bpf(LOAD, &arguments)?).map_err(io::Error::other)?;
    // SAFETY: the kernel has just made this descriptor for us.
    let loaded = unsafe { OwnedFd::from_raw_fd(loaded) };
    let arguments = AttachArguments {
        target: group.as_raw_fd().unsigned_abs(),
        program: loaded.as_raw_fd().unsigned_abs(),
        kind: CGROUP_DEVICE_HOOK,
        flags: ALLOW_MULTI,
    };
    bpf(ATTACH, &arguments).map(|_| ())
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::process::Command;

    use super::super::{Hierarchies, detect};
    use super::*;

    struct Group(std::path::PathBuf);

    impl Drop for Group {
        fn drop(&mut self) {
            let _ = fs::remove_dir(&self.0);
        }
    }

    #[test]
    fn the_kernel_keeps_the_rules() {
        let Hierarchies { unified, .. } = detect(Path::new("stack-test-devices")).unwrap();
        let parent = unified.unwrap().parent;
        let group = Group(parent.with_file_name(format!("stack-test-devices-{}", std::process::id())));
        fs::create_dir_all(&group.0).unwrap();
        let rule = |minor, access: &str| DeviceRule {
            kind: 'c',
            major: Some(1),
            minor: Some(minor),
            access: access.to_owned(),
        };
        // null and zero may be read and written, full only be read, urandom nothing.
        attach(&group.0, &[rule(3, "rwm"), rule(5, "rwm"), rule(7, "r")]).unwrap();
        let line = format!(
            "echo $$ > {}/cgroup.procs; head -c1 /dev/zero >/dev/null && echo zero; head -c1 /dev/full >/dev/null && echo full; \
             : > /dev/full && echo write; head -c1 /dev/urandom && echo random; true",
            group.0.display()
        );
        let output = Command::new("/bin/busybox").args(["sh", "-c", &line]).output().unwrap();
        assert_eq!(String::from_utf8_lossy(&output.stdout), "zero\nfull\n", "{output:?}");
    }
}
