// Copyright the kata authors. SPDX-License-Identifier: Apache-2.0

//! The kernel's files, read purely: lines that are not as they should be are left out.

/// As many entries of a file are looked at: none of the kernel's that is of use has more.
const MOST: usize = 1024;

/// Something with a row of numbers.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Row {
    /// As the kernel calls it.
    pub name: String,
    /// In the kernel's order.
    pub numbers: Vec<u64>,
}

/// Of /proc/loadavg.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Load {
    /// Over one, five and fifteen minutes.
    pub averages: [f64; 3],
    /// Tasks that can run.
    pub running: u64,
    /// All tasks.
    pub tasks: u64,
}

/// Of /proc/PID/stat; times in clock ticks.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Stat {
    /// In the program.
    pub user: u64,
    /// In the kernel for it.
    pub system: u64,
    /// As `user`, of children that have ended.
    pub children_user: u64,
    /// As `system`, of children that have ended.
    pub children_system: u64,
    /// How many it has.
    pub threads: u64,
    /// Since the boot.
    pub started: u64,
    /// Bytes.
    pub virtual_bytes: u64,
    /// Pages.
    pub resident_pages: u64,
}

/// Lines of `NAME: NUMBER [kB]` or `NAME NUMBER`.
pub fn pairs(text: &str) -> Vec<(&str, u64)> {
    let pairs = text.lines().filter_map(|line| {
        let mut words = line.split_whitespace();
        let name = words.next()?;
        let number = words.next()?.parse().ok()?;
        matches!(words.next(), None | Some("kB")).then_some((name.strip_suffix(':').unwrap_or(name), number))
    });
    pairs.take(MOST).collect()
}

/// The processors in /proc/stat; the one called `cpu` is all of them.
pub fn cpus(text: &str) -> Vec<Row> {
    let lines = text.lines().filter(|line| line.starts_with("cpu"));
    lines.take(MOST).filter_map(|line| row(line.split_once(' ')?)).collect()
}

/// When the machine was booted, in /proc/stat: seconds since the epoch.
pub fn boot_time(text: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix("btime "))?;
    line.trim().parse().ok()
}

/// The interfaces in /proc/net/dev.
pub fn interfaces(text: &str) -> Vec<Row> {
    // Two lines of headings; a name may hold a colon.
    let lines = text.lines().skip(2).take(MOST);
    lines.filter_map(|line| row(line.rsplit_once(':')?)).collect()
}

/// The block devices in /proc/diskstats.
pub fn disks(text: &str) -> Vec<Row> {
    let lines = text.lines().take(MOST).filter_map(|line| {
        let (_, line) = line.trim_start().split_once(' ')?;
        let (_, line) = line.trim_start().split_once(' ')?;
        row(line.split_once(' ')?)
    });
    lines.collect()
}

fn row((name, numbers): (&str, &str)) -> Option<Row> {
    let numbers: Result<Vec<u64>, _> = numbers.split_whitespace().map(str::parse).collect();
    let row = Row {
        name: name.trim().to_owned(),
        numbers: numbers.ok()?,
    };
    (!row.name.is_empty() && !row.numbers.is_empty()).then_some(row)
}

/// /proc/loadavg.
pub fn load(text: &str) -> Option<Load> {
    let mut words = text.split_whitespace();
    let mut average = || words.next()?.parse::<f64>().ok().filter(|load| load.is_finite());
    let averages = [average()?, average()?, average()?];
    let (running, tasks) = words.next()?.split_once('/')?;
    Some(Load {
        averages,
        running: running.parse().ok()?,
        tasks: tasks.parse().ok()?,
    })
}

/// /proc/PID/stat.
pub fn stat(text: &str) -> Option<Stat> {
    // The program's name stands in brackets, and may hold any of them.
    let (_, rest) = text.rsplit_once(')')?;
    let fields: Vec<&str> = rest.split_whitespace().collect();
    // As proc(5) counts them; the first after the name is the third.
    let field = |number: usize| fields.get(number - 3)?.parse::<u64>().ok();
    Some(Stat {
        user: field(14)?,
        system: field(15)?,
        children_user: field(16)?,
        children_system: field(17)?,
        threads: field(20)?,
        started: field(22)?,
        virtual_bytes: field(23)?,
        resident_pages: field(24)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_read_as_the_kernel_writes_them() {
        let text = "MemTotal:  2048 kB\nActive(anon): 7 kB\nHugePages_Total:   3\nName:\tx y\nbroken\nnr_free_pages 9\nVmX: 1 MB\n";
        let want = [
            ("MemTotal", 2048),
            ("Active(anon)", 7),
            ("HugePages_Total", 3),
            ("nr_free_pages", 9),
        ];
        assert_eq!(pairs(text), want);
        let text = "cpu  1 2 3\ncpu0 4 5\ncpu1 x\nintr 5\nbtime 1700000000\n";
        let names: Vec<_> = cpus(text)
            .into_iter()
            .map(|row| (row.name, row.numbers.len()))
            .collect();
        assert_eq!(names, [("cpu".to_owned(), 3), ("cpu0".to_owned(), 2)]);
        assert_eq!((boot_time(text), boot_time("btime x")), (Some(1_700_000_000), None));
        let text = "Inter-|\n face |\n    lo: 1 2 3\n a:b:4\neth0:\n";
        let names: Vec<_> = interfaces(text)
            .into_iter()
            .map(|row| (row.name, row.numbers))
            .collect();
        assert_eq!(names, [("lo".to_owned(), vec![1, 2, 3]), ("a:b".to_owned(), vec![4])]);
        let disks = disks(" 254       0 vda 5 6 7\n 1 2\n   7 0 loop0 x\n");
        assert_eq!(
            disks,
            [Row {
                name: "vda".into(),
                numbers: vec![5, 6, 7]
            }]
        );
    }

    #[test]
    fn loads_and_processes_are_whole_or_nothing() {
        let got = load("0.50 1.25 2.00 3/120 456\n").unwrap();
        assert_eq!((got.averages, got.running, got.tasks), ([0.5, 1.25, 2.0], 3, 120));
        for bad in ["", "nan 0 0 1/2", "0 0 0 1", "0 0"] {
            assert_eq!(load(bad), None, "{bad}");
        }
        let text = "7 (a) b) (c) S 1 7 7 0 -1 4194560 1 2 3 4 10 20 30 40 20 0 5 0 999 4096 6 18446744073709551615 1";
        let want = Stat {
            user: 10,
            system: 20,
            children_user: 30,
            children_system: 40,
            threads: 5,
            started: 999,
            virtual_bytes: 4096,
            resident_pages: 6,
        };
        assert_eq!(stat(text), Some(want));
        assert_eq!(stat("7 (a) S 1 2"), None);
        let own = std::fs::read_to_string("/proc/self/stat").unwrap();
        assert!(stat(&own).unwrap().threads >= 1);
    }
}
