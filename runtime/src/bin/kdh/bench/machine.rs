//! What a measurement was made on: the processor, and what its speed depends on. Everything is read from `/proc` and
//! `/sys`; what is not there stays unknown.

use std::fs;
use std::path::{Path, PathBuf};

use serde::Serialize;

/// What stays the same while the program runs.
#[derive(Serialize)]
pub(super) struct Machine {
    pub(super) arch: &'static str,
    /// Name of the processor, or on ARM of its cores.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) cpu: Option<String>,
    /// Name of the board.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) board: Option<String>,
    /// Instruction sets that matter here and that this process may use.
    pub(super) cpu_features: Vec<&'static str>,
    pub(super) cpu_cores: usize,
    /// Release of the operating system's kernel.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) os_kernel: Option<String>,
    /// There is a hypervisor below; the processor's instructions still run natively.
    pub(super) virtualised: bool,
    /// There is a sign that instructions are translated, so that times say nothing of a real processor.
    pub(super) emulated: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) emulation_sign: Option<&'static str>,
}

impl Machine {
    pub(super) fn read() -> Self {
        Self::read_below(Path::new("/"), std::env::consts::ARCH, &features())
    }

    fn read_below(root: &Path, arch: &'static str, features: &[(&'static str, bool)]) -> Self {
        let cpuinfo = fs::read_to_string(root.join("proc/cpuinfo")).unwrap_or_default();
        let kernel_arch = read_line(root.join("proc/sys/kernel/arch"));
        let emulation_sign = emulation_sign(arch, kernel_arch.as_deref(), &cpuinfo, features);
        let hypervisor = ["sys/hypervisor/type", "proc/device-tree/hypervisor"];
        Self {
            arch,
            cpu: cpu_name(&cpuinfo),
            board: read_line(root.join("proc/device-tree/model")),
            cpu_features: features.iter().filter(|(_, has)| *has).map(|(name, _)| *name).collect(),
            cpu_cores: std::thread::available_parallelism().map_or(1, usize::from),
            os_kernel: read_line(root.join("proc/sys/kernel/osrelease")),
            virtualised: listed(&cpuinfo, "hypervisor") || hypervisor.iter().any(|path| root.join(path).exists()),
            emulated: emulation_sign.is_some(),
            emulation_sign,
        }
    }
}

/// What may change while the program runs.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct State {
    pub(super) governor: Option<String>,
    pub(super) frequency_mhz: Option<f64>,
    /// The hottest sensor.
    pub(super) temperature_c: Option<f64>,
    /// Times that the processor was slowed down because of heat, since the machine was started.
    throttle_events: Option<u64>,
    /// Whether it is slowed down now.
    throttled_now: Option<bool>,
    /// Energy counters of the processor packages: microjoules, and where they start again from 0.
    energy: Vec<(u64, u64)>,
}

impl State {
    /// `core` is the one that is measured.
    pub(super) fn read(core: usize) -> Self {
        Self::read_below(Path::new("/"), core)
    }

    fn read_below(root: &Path, core: usize) -> Self {
        let cpu = root.join(format!("sys/devices/system/cpu/cpu{core}"));
        let cpuinfo = || fs::read_to_string(root.join("proc/cpuinfo")).unwrap_or_default();
        let megahertz = |kilohertz: f64| kilohertz / 1e3;
        let throttle = ["core_throttle_count", "package_throttle_count"]
            .into_iter()
            .filter_map(|name| read_number(cpu.join("thermal_throttle").join(name)));
        Self {
            governor: read_line(cpu.join("cpufreq/scaling_governor")),
            frequency_mhz: read_number(cpu.join("cpufreq/scaling_cur_freq"))
                .map(megahertz)
                .or_else(|| core_megahertz(&cpuinfo(), core)),
            temperature_c: temperature(root),
            throttle_events: throttle.reduce(|a, b| a + b).map(|events: f64| events as u64),
            throttled_now: throttled_now(root),
            energy: energy(root),
        }
    }

    /// Whether heat or power slowed the processor down between this reading and a `later` one; `None` when the machine
    /// does not say.
    pub(super) fn throttled(&self, later: &Self) -> Option<bool> {
        let counted = self.throttle_events.zip(later.throttle_events).map(|(before, after)| after > before);
        let seen = [self.throttled_now, later.throttled_now, counted];
        seen.contains(&Some(true)).then_some(true).or(seen.into_iter().flatten().next())
    }

    /// Energy of the processor packages between this reading and a `later` one, in joules. A counter that went round more
    /// than once (hours) is not seen.
    pub(super) fn joules(&self, later: &Self) -> Option<f64> {
        if self.energy.is_empty() || self.energy.len() != later.energy.len() {
            return None;
        }
        let used = |(&(before, range), &(after, _)): (&(u64, u64), &(u64, u64))| match after.checked_sub(before) {
            Some(used) => used,
            None => after.saturating_add(range.saturating_sub(before)),
        };
        Some(self.energy.iter().zip(&later.energy).map(used).sum::<u64>() as f64 / 1e6)
    }
}

/// Instruction sets that matter here, and whether this process may use them.
fn features() -> Vec<(&'static str, bool)> {
    macro_rules! detect {
        ($detected:ident: $($name:tt)*) => { vec![$(($name, std::arch::$detected!($name))),*] };
    }
    #[cfg(target_arch = "x86_64")]
    return detect!(is_x86_feature_detected: "sse4.2" "avx" "avx2" "fma" "avx512f" "avx512bw" "avx512dq" "avx512vl"
        "avx512vnni" "avxvnni");
    #[cfg(target_arch = "aarch64")]
    return detect!(is_aarch64_feature_detected: "neon" "fp16" "dotprod" "i8mm" "bf16" "sve" "sve2");
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    Vec::new()
}

/// Why instructions seem to be translated, as under `qemu-aarch64`. A whole emulated machine may give no sign.
fn emulation_sign(
    arch: &str,
    kernel_arch: Option<&str>,
    cpuinfo: &str,
    features: &[(&'static str, bool)],
) -> Option<&'static str> {
    let family = |arch: &str| match arch {
        "x86" | "x86_64" | "i386" | "i486" | "i586" | "i686" => Some("x86"),
        "aarch64" | "arm" | "armv6l" | "armv7l" | "armv8l" => Some("arm"),
        _ => None,
    };
    let other = |found: Option<&str>| found.is_some_and(|found| family(arch).is_some_and(|own| found != own));
    if other(kernel_arch.and_then(family)) {
        return Some("the kernel is of another processor family");
    }
    let of_cpuinfo = [("vendor_id", "x86"), ("CPU implementer", "arm")];
    if other(of_cpuinfo.into_iter().find(|(field, _)| value(cpuinfo, field).is_some()).map(|(_, family)| family)) {
        return Some("/proc/cpuinfo is of another processor family");
    }
    if value(cpuinfo, "model name").is_some_and(|name| name.contains("TCG")) {
        return Some("the processor names itself after QEMU's translator");
    }
    // An emulator of user programs hands the host's /proc/cpuinfo on.
    let denied = features.iter().any(|(name, has)| !has && kernel_names(name).iter().any(|name| listed(cpuinfo, name)));
    denied.then_some("/proc/cpuinfo lists instructions that the processor does not have")
}

/// The kernel's names of an instruction set.
fn kernel_names(feature: &str) -> &'static [&'static str] {
    match feature {
        "sse4.2" => &["sse4_2"],
        "avx" => &["avx"],
        "avx2" => &["avx2"],
        "fma" => &["fma"],
        "avx512f" => &["avx512f"],
        "avx512vnni" => &["avx512_vnni"],
        "avxvnni" => &["avx_vnni"],
        "dotprod" => &["asimddp"],
        "i8mm" => &["i8mm"],
        _ => &[],
    }
}

/// The model's name, or on ARM every kind of core.
fn cpu_name(cpuinfo: &str) -> Option<String> {
    if let Some(name) = value(cpuinfo, "model name").filter(|_| value(cpuinfo, "CPU part").is_none()) {
        return Some(name.to_owned());
    }
    let mut cores: Vec<String> = Vec::new();
    let mut implementer = "";
    for line in cpuinfo.lines() {
        match line.split_once(':').map(|(field, value)| (field.trim(), value.trim())) {
            Some(("CPU implementer", value)) => implementer = value,
            Some(("CPU part", part)) => {
                let name = arm_core(implementer, part)
                    .map_or_else(|| format!("implementer {implementer} part {part}"), str::to_owned);
                if !cores.contains(&name) {
                    cores.push(name);
                }
            }
            _ => {}
        }
    }
    (!cores.is_empty()).then(|| cores.join(" + "))
}

/// Main ID register, Arm's technical reference manuals of the cores.
fn arm_core(implementer: &str, part: &str) -> Option<&'static str> {
    let name = match (implementer, part) {
        ("0x41", "0xd03") => "Cortex-A53",
        ("0x41", "0xd04") => "Cortex-A35",
        ("0x41", "0xd05") => "Cortex-A55",
        ("0x41", "0xd07") => "Cortex-A57",
        ("0x41", "0xd08") => "Cortex-A72",
        ("0x41", "0xd09") => "Cortex-A73",
        ("0x41", "0xd0a") => "Cortex-A75",
        ("0x41", "0xd0b") => "Cortex-A76",
        ("0x41", "0xd0c") => "Neoverse-N1",
        ("0x41", "0xd0d") => "Cortex-A77",
        ("0x41", "0xd40") => "Neoverse-V1",
        ("0x41", "0xd41") => "Cortex-A78",
        ("0x41", "0xd42") => "Cortex-A78AE",
        ("0x41", "0xd46") => "Cortex-A510",
        ("0x41", "0xd49") => "Neoverse-N2",
        ("0x41", "0xd4b") => "Cortex-A78C",
        ("0x41", "0xd4f") => "Neoverse-V2",
        _ => return None,
    };
    Some(name)
}

/// Value of a field's first line.
fn value<'c>(cpuinfo: &'c str, field: &str) -> Option<&'c str> {
    let mut lines = cpuinfo.lines().filter_map(|line| line.split_once(':'));
    lines.find(|(name, _)| name.trim() == field).map(|(_, value)| value.trim())
}

/// Whether the kernel lists an instruction set.
fn listed(cpuinfo: &str, feature: &str) -> bool {
    let lists = ["flags", "Features"].into_iter().filter_map(|field| value(cpuinfo, field));
    lists.flat_map(str::split_whitespace).any(|name| name == feature)
}

fn core_megahertz(cpuinfo: &str, core: usize) -> Option<f64> {
    let core = core.to_string();
    let block = cpuinfo.split("\n\n").find(|block| value(block, "processor") == Some(&core))?;
    value(block, "cpu MHz")?.parse().ok()
}

fn temperature(root: &Path) -> Option<f64> {
    let zones = entries(&root.join("sys/class/thermal"), "thermal_zone").into_iter().map(|zone| zone.join("temp"));
    let sensors = entries(&root.join("sys/class/hwmon"), "hwmon")
        .into_iter()
        .flat_map(|chip| entries(&chip, "temp").into_iter().filter(|path| path.to_string_lossy().ends_with("_input")));
    zones.chain(sensors).filter_map(read_number).map(|millidegrees| millidegrees / 1e3).reduce(f64::max)
}

/// From the kernel's cooling devices, and the firmware of a Raspberry Pi.
fn throttled_now(root: &Path) -> Option<bool> {
    let devices = entries(&root.join("sys/class/thermal"), "cooling_device");
    let of_processor = devices.into_iter().filter(|device| {
        read_line(device.join("type")).is_some_and(|kind| kind.contains("cpufreq") || kind.contains("Processor"))
    });
    let cooling = of_processor.filter_map(|device| read_number(device.join("cur_state"))).map(|state| state > 0.0);
    let firmware = read_line(root.join("sys/devices/platform/soc/soc:firmware/get_throttled"))
        // Bits 0 to 3: too little voltage, frequency capped, throttled, soft limit of temperature. Higher ones: since start.
        .and_then(|bits| u32::from_str_radix(bits.trim_start_matches("0x"), 16).ok())
        .map(|bits| bits & 0xf != 0);
    cooling.chain(firmware).reduce(|a, b| a || b)
}

/// Counters of processor packages, where this user may read them.
fn energy(root: &Path) -> Vec<(u64, u64)> {
    let zones = entries(&root.join("sys/class/powercap"), "intel-rapl:");
    let packages =
        zones.into_iter().filter(|zone| read_line(zone.join("name")).is_some_and(|name| name.starts_with("package")));
    let number = |path: PathBuf| read_line(path)?.parse().ok();
    packages
        .filter_map(|zone| Some((number(zone.join("energy_uj"))?, number(zone.join("max_energy_range_uj"))?)))
        .collect()
}

/// What a folder holds whose name begins with `prefix`, in order.
fn entries(folder: &Path, prefix: &str) -> Vec<PathBuf> {
    let found = fs::read_dir(folder).into_iter().flatten().flatten();
    let mut found: Vec<PathBuf> = found
        .filter(|entry| entry.file_name().to_string_lossy().starts_with(prefix))
        .map(|entry| entry.path())
        .collect();
    found.sort();
    found
}

/// First line of a file, if there is something in it. Device trees end their strings with a zero.
fn read_line(path: PathBuf) -> Option<String> {
    let text = fs::read_to_string(path).ok()?;
    let line = text.lines().next()?.trim_matches(|c: char| c == '\0' || c.is_whitespace());
    (!line.is_empty()).then(|| line.to_owned())
}

fn read_number(path: PathBuf) -> Option<f64> {
    read_line(path)?.parse().ok().filter(|number: &f64| number.is_finite())
}

#[cfg(test)]
mod tests {
    use super::*;

    const ZEN: &str = "processor\t: 0\nvendor_id\t: AuthenticAMD\nmodel name\t: AMD EPYC\ncpu MHz\t\t: 2596.1\n\
                       flags\t\t: fpu sse4_2 avx2 hypervisor\n\nprocessor\t: 1\nvendor_id\t: AuthenticAMD\n\
                       cpu MHz\t\t: 3100.5\n";
    const ARM: &str = "processor\t: 0\nFeatures\t: fp asimd asimddp\nCPU implementer\t: 0x41\nCPU part\t: 0xd05\n\n\
                       processor\t: 1\nFeatures\t: fp asimd asimddp\nCPU implementer\t: 0x41\nCPU part\t: 0xd0b\n\n\
                       processor\t: 2\nCPU implementer\t: 0x41\nCPU part\t: 0xd0b\n";

    fn tree(files: &[(&str, &str)]) -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        for (path, text) in files {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        root
    }

    #[test]
    fn a_machine_that_says_nothing() {
        let root = tree(&[]);
        let machine = Machine::read_below(root.path(), "x86_64", &[]);
        assert_eq!((machine.cpu, machine.os_kernel, machine.virtualised, machine.emulated), (None, None, false, false));
        let state = State::read_below(root.path(), 0);
        assert_eq!(state, State::default());
        assert_eq!((state.throttled(&state), state.joules(&state)), (None, None));
    }

    #[test]
    fn a_virtual_machine_and_a_board() {
        let root = tree(&[("proc/cpuinfo", ZEN), ("proc/sys/kernel/arch", "x86_64\n")]);
        let machine = Machine::read_below(root.path(), "x86_64", &[("avx2", true), ("avx512f", false)]);
        assert_eq!(machine.cpu.as_deref(), Some("AMD EPYC"));
        assert_eq!(machine.cpu_features, ["avx2"]);
        assert_eq!((machine.virtualised, machine.emulation_sign), (true, None));
        assert_eq!(State::read_below(root.path(), 1).frequency_mhz, Some(3100.5));
        assert_eq!(State::read_below(root.path(), 2).frequency_mhz, None);

        let root = tree(&[("proc/cpuinfo", ARM), ("proc/device-tree/model", "Some Board Rev 1\0")]);
        let machine = Machine::read_below(root.path(), "aarch64", &[("dotprod", true), ("i8mm", false)]);
        assert_eq!(machine.cpu.as_deref(), Some("Cortex-A55 + Cortex-A76"));
        assert_eq!(machine.board.as_deref(), Some("Some Board Rev 1"));
        assert_eq!((machine.virtualised, machine.emulated), (false, false));
    }

    #[test]
    fn signs_of_emulation() {
        let sign = |arch, kernel, cpuinfo, features: &[_]| emulation_sign(arch, kernel, cpuinfo, features).is_some();
        let none: &[(&str, bool)] = &[];
        assert!(sign("aarch64", Some("x86_64"), ARM, none));
        assert!(sign("aarch64", None, ZEN, none));
        assert!(sign("x86_64", None, ARM, none));
        assert!(sign("x86_64", None, "model name : QEMU TCG CPU version 2.5+", none));
        assert!(sign("x86_64", Some("x86_64"), ZEN, &[("avx2", false)]));
        assert!(sign("aarch64", None, ARM, &[("dotprod", false)]));
        // A program of 32 bits on a kernel of 64 runs natively.
        assert!(!sign("arm", Some("aarch64"), ARM, none));
        assert!(!sign("x86", Some("x86_64"), ZEN, &[("avx2", true), ("avx512f", false)]));
        assert!(!sign("aarch64", Some("aarch64"), "", &[("dotprod", false)]));
    }

    #[test]
    fn governor_heat_and_energy() {
        let cpu = "sys/devices/system/cpu/cpu3";
        let state = |count: &str, cooling: &str, energy: &str| {
            let root = tree(&[
                (&format!("{cpu}/cpufreq/scaling_governor"), "performance\n"),
                (&format!("{cpu}/cpufreq/scaling_cur_freq"), "1800000\n"),
                (&format!("{cpu}/thermal_throttle/core_throttle_count"), count),
                ("sys/class/thermal/thermal_zone0/temp", "41500\n"),
                ("sys/class/thermal/thermal_zone1/temp", "52500\n"),
                ("sys/class/thermal/cooling_device0/type", "cpufreq-cpu0\n"),
                ("sys/class/thermal/cooling_device0/cur_state", cooling),
                ("sys/class/thermal/cooling_device1/type", "fan\n"),
                ("sys/class/thermal/cooling_device1/cur_state", "9\n"),
                ("sys/class/powercap/intel-rapl:0/name", "package-0\n"),
                ("sys/class/powercap/intel-rapl:0/energy_uj", energy),
                ("sys/class/powercap/intel-rapl:0/max_energy_range_uj", "10000000\n"),
                ("sys/class/powercap/intel-rapl:0:0/name", "core\n"),
                ("sys/class/powercap/intel-rapl:0:0/energy_uj", "1\n"),
                ("sys/class/powercap/intel-rapl:0:0/max_energy_range_uj", "10000000\n"),
            ]);
            State::read_below(root.path(), 3)
        };
        let before = state("4\n", "0\n", "9000000\n");
        assert_eq!(before.governor.as_deref(), Some("performance"));
        assert_eq!((before.frequency_mhz, before.temperature_c), (Some(1800.0), Some(52.5)));
        assert_eq!(before.throttled(&before), Some(false));
        assert_eq!(before.throttled(&state("5\n", "0\n", "0\n")), Some(true));
        assert_eq!(before.throttled(&state("4\n", "2\n", "0\n")), Some(true));
        assert_eq!(before.joules(&state("4\n", "0\n", "9500000\n")), Some(0.5));
        // The counter went round.
        assert_eq!(before.joules(&state("4\n", "0\n", "500000\n")), Some(1.5));
        assert_eq!(before.joules(&state("4\n", "0\n", "no number")), None);
    }

    #[test]
    fn a_board_with_too_little_power() {
        let state =
            |bits| State::read_below(tree(&[("sys/devices/platform/soc/soc:firmware/get_throttled", bits)]).path(), 0);
        assert_eq!(state("50000\n").throttled(&state("50000\n")), Some(false));
        assert_eq!(state("50000\n").throttled(&state("50005\n")), Some(true));
    }
}
