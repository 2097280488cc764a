//! The argument of `--disk`.

use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use disk::cache::{CacheOptions, Cached};
use disk::flat::{Copying, Prefetch};
use disk::graybox::GrayBox;
use disk::{Classified, Disk, Format, OpenOptions, Order, Trace, is_remote};

use super::cache::{CacheFields, exceeded_memory_bytes};
use super::parse_size;
use crate::grow_command::GrowCommand;

/// The most bytes of a serial number that virtio-blk has room for (virtio 1.2 section 5.2.6).
const SERIAL_MAX_BYTES: usize = 20;

/// The least memory for an index of what is where: some hundred clusters.
const INDEX_BYTES_MIN: u64 = 64 << 10;

/// The options beside the path, for messages.
const KNOWN: &str = "readonly, format=F, data-file=PATH, snapshot=ID|NAME, l2-cache-size=SIZE, \
                     order=MODE, barrier-syscall=N, dedup=SIZE, copy-on-read, prefetch[=RATE], \
                     trace=FILE, \
                     record-trace=FILE, deadline=SECONDS, grow[=COMMAND], direct=on|off, cache=SIZE, \
                     cache-file=PATH, cache-write=through|back, cache-policy=s3-fifo|lru, \
                     cache-classes=on|off and serial=S";

/// `PATH[,OPTION]...` with the options of [`KNOWN`], as written; a comma in a path is written twice.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct DiskArgument {
    /// The image file or block device, or a URL.
    pub(crate) path: PathBuf,
    /// The guest may not write.
    pub(crate) read_only: bool,
    /// The image format; without it, raw.
    pub(crate) format: Option<Format>,
    /// The external data file, in place of the one that the image names.
    pub(crate) data_file: Option<PathBuf>,
    /// The internal snapshot, in place of the disk as it is now.
    pub(crate) snapshot: Option<String>,
    /// The most memory for the metadata of each file of the image.
    pub(crate) l2_cache_bytes: Option<u64>,
    /// How metadata is kept in order with data; without it, as the engine likes.
    pub(crate) order: Option<Order>,
    /// The number of the host's system call `fdatabarrier`.
    pub(crate) barrier_syscall: Option<u32>,
    /// Whether a qcow2 image stores alike data once, and the memory for the index of what is where.
    pub(crate) dedup_bytes: Option<u64>,
    /// How the image copies from its base.
    pub(crate) copying: Copying,
    /// Where to write what is read first.
    pub(crate) record_trace: Option<PathBuf>,
    /// How long a read of what is far away waits for its server.
    pub(crate) deadline: Option<Duration>,
    /// What makes the block device below a compact image larger before it is full.
    pub(crate) grow: Option<GrowCommand>,
    /// Whether the host's page cache is left out.
    pub(crate) direct: bool,
    /// The cache in front of it.
    pub(crate) cache: Option<CacheOptions>,
    /// What the guest reads as the disk's serial number.
    pub(crate) serial: Option<String>,
}

impl FromStr for DiskArgument {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Self::from_fields(split_fields(text))
    }
}

impl DiskArgument {
    /// Of a path and options, as they were between commas.
    pub(crate) fn from_fields(fields: impl IntoIterator<Item = String>) -> Result<Self, String> {
        let mut fields = fields.into_iter();
        let path = fields.next().filter(|path| !path.is_empty());
        let path = path.ok_or("the path is missing")?.into();
        let mut argument = Self {
            path,
            read_only: false,
            format: None,
            data_file: None,
            snapshot: None,
            l2_cache_bytes: None,
            order: None,
            barrier_syscall: None,
            dedup_bytes: None,
            copying: Copying::default(),
            record_trace: None,
            deadline: None,
            grow: None,
            direct: false,
            cache: None,
            serial: None,
        };
        let mut trace = None;
        let mut cache = CacheFields::default();
        for field in fields {
            match field.split_once('=') {
                Some(("trace", path)) => trace = Some(load_trace(path)?),
                Some((name, value)) if cache.apply(name, value)? => {}
                _ => argument.apply(&field)?,
            }
        }
        argument.cache = cache.finish(argument.read_only, argument.snapshot.is_some())?;
        if let Some(trace) = trace {
            let prefetch = argument.copying.prefetch.as_mut();
            prefetch.ok_or("trace=FILE is for prefetch only")?.trace = Some(trace);
        }
        if argument.copying != Copying::default() && argument.read_only {
            return Err(
                "copy-on-read and prefetch write to the image; leave out readonly".to_owned(),
            );
        }
        if argument.dedup_bytes.is_some() && argument.read_only {
            return Err("dedup is for disks that are written; leave out readonly".to_owned());
        }
        if argument.grow.is_some() && argument.read_only {
            return Err("grow is for disks that are written; leave out readonly".to_owned());
        }
        if argument.barrier_syscall.is_some() && argument.order != Some(Order::Barrier) {
            return Err("barrier-syscall=N is for order=barrier only".to_owned());
        }
        if argument.direct && is_remote(&argument.path) {
            return Err(
                "direct=on is for files of this host; what is far away is in no page cache here; \
                 leave it out"
                    .to_owned(),
            );
        }
        Ok(argument)
    }

    /// Puts the cache, if there is to be one, in front of the disk that `open` opens.
    pub(crate) async fn open_behind_cache(
        &self,
        open: impl AsyncFnOnce() -> Result<Rc<dyn Disk>, disk::Error>,
    ) -> Result<(Rc<dyn Disk>, Option<Rc<Cached>>), disk::Error> {
        let Some(options) = &self.cache else {
            return Ok((open().await?, None));
        };
        let cached = Rc::new(options.open(&self.path, open).await?);
        Ok((Rc::clone(&cached) as Rc<dyn Disk>, Some(cached)))
    }

    /// Has `disk`, opened behind its cache, tell metadata from the rest, if the cache asks for that.
    pub(crate) fn tell_metadata(&self, disk: Rc<dyn Disk>) -> Rc<dyn Disk> {
        let asks = self
            .cache
            .as_ref()
            .is_some_and(CacheOptions::asks_for_classes);
        if !asks {
            return disk;
        }
        let classifier = GrayBox::new(disk.properties().size_bytes);
        Rc::new(Classified::new(disk, Rc::new(classifier)))
    }

    /// How to open the image, without its cache.
    pub(crate) fn open_options(&self) -> OpenOptions {
        let mut options = OpenOptions::new(&self.path)
            .read_only(self.read_only)
            .direct(self.direct)
            .copying(self.copying.clone());
        if let Some(format) = self.format {
            options = options.format(format);
        }
        if let Some(path) = &self.data_file {
            options = options.data_file(path);
        }
        if let Some(id_or_name) = &self.snapshot {
            options = options.snapshot(id_or_name);
        }
        if let Some(bytes) = self.l2_cache_bytes {
            options = options.l2_cache_bytes(bytes);
        }
        if let Some(order) = self.order {
            options = options.order(order);
        }
        if let Some(bytes) = self.dedup_bytes {
            options = options.dedup_bytes(bytes);
        }
        if let Some(path) = &self.record_trace {
            options = options.record_trace(path);
        }
        if let Some(deadline) = self.deadline {
            options = options.deadline(deadline);
        }
        if let Some(number) = self.barrier_syscall {
            options = options.barrier_syscall(number);
        }
        if let Some(command) = &self.grow {
            options = options.grow(Arc::new(command.clone()));
        }
        options
    }

    /// How to open a new overlay on the image in its place.
    pub(crate) fn overlaid(&self, path: PathBuf, format: Format) -> Self {
        Self {
            path,
            format: Some(format),
            data_file: None,
            dedup_bytes: self.dedup_bytes.filter(|_| format == Format::Qcow2),
            copying: Copying::default(),
            record_trace: None,
            grow: None,
            ..self.clone()
        }
    }

    fn apply(&mut self, field: &str) -> Result<(), String> {
        match field.split_once('=') {
            None if field == "readonly" => self.read_only = true,
            None if field == "copy-on-read" => self.copying.on_read = true,
            None if field == "grow" => {
                self.grow.get_or_insert_with(GrowCommand::default);
            }
            Some(("grow", command)) if !command.is_empty() => {
                self.grow = Some(GrowCommand::new(command));
            }
            None if field == "prefetch" => self.copying.prefetch = Some(Prefetch::default()),
            Some(("prefetch", rate)) => {
                self.copying.prefetch = Some(Prefetch {
                    bytes_per_s: Some(parse_rate(rate)?),
                    trace: None,
                });
            }
            Some(("record-trace", path)) if !path.is_empty() => {
                self.record_trace = Some(path.into());
            }
            Some(("format", name)) => self.format = Some(parse(name)?),
            Some(("data-file", path)) if !path.is_empty() => self.data_file = Some(path.into()),
            Some(("snapshot", id_or_name)) => self.snapshot = Some(id_or_name.to_owned()),
            Some(("l2-cache-size", size)) => self.l2_cache_bytes = Some(parse_size(size)?),
            Some(("order", name)) => self.order = Some(parse(name)?),
            Some(("barrier-syscall", number)) => {
                self.barrier_syscall = Some(parse_syscall(number)?);
            }
            Some(("dedup", size)) => self.dedup_bytes = Some(parse_index_size(size)?),
            Some(("deadline", seconds)) => self.deadline = Some(parse_deadline(seconds)?),
            Some(("direct", "on")) => self.direct = true,
            Some(("direct", "off")) => self.direct = false,
            Some(("direct", other)) => return Err(format!("direct={other}: give on or off")),
            Some(("serial", serial)) => self.serial = Some(check_serial(serial)?),
            _ => return Err(format!("unknown option '{field}': there are {KNOWN}")),
        }
        Ok(())
    }
}

/// One of the engine's names.
pub(super) fn parse<T: FromStr<Err = disk::Error>>(name: &str) -> Result<T, String> {
    name.parse().map_err(|error: disk::Error| error.to_string())
}

fn load_trace(path: &str) -> Result<Arc<Trace>, String> {
    let trace = Trace::load(Path::new(path));
    trace.map(Arc::new).map_err(|error| error.to_string())
}

/// The memory for an index of what is where.
fn parse_index_size(size: &str) -> Result<u64, String> {
    let bytes = parse_size(size)?;
    if bytes < INDEX_BYTES_MIN {
        return Err(format!("dedup={size}: give 64K or more"));
    }
    match exceeded_memory_bytes(bytes) {
        Some(host) => Err(format!(
            "dedup={size}: is more than half of the host's memory ({host} bytes); give less"
        )),
        None => Ok(bytes),
    }
}

fn parse_syscall(number: &str) -> Result<u32, String> {
    let decimal = number.bytes().all(|byte| byte.is_ascii_digit());
    let parsed = number.parse().ok().filter(|_| decimal);
    parsed.ok_or_else(|| format!("barrier-syscall={number}: not the number of a system call"))
}

/// Seconds, of which a part may be given.
fn parse_deadline(seconds: &str) -> Result<Duration, String> {
    let parsed = seconds.parse().map(Duration::try_from_secs_f64);
    match parsed {
        Ok(Ok(deadline)) if !deadline.is_zero() => Ok(deadline),
        _ => Err(format!("deadline={seconds}: give a number of seconds")),
    }
}

/// Bytes a second.
fn parse_rate(rate: &str) -> Result<u64, String> {
    match parse_size(rate)? {
        0 => Err("prefetch=0 would never end; leave it out".to_owned()),
        rate => Ok(rate),
    }
}

fn check_serial(serial: &str) -> Result<String, String> {
    let printable = serial
        .bytes()
        .all(|byte| byte.is_ascii_graphic() || byte == b' ');
    if serial.is_empty() || serial.len() > SERIAL_MAX_BYTES || !printable {
        return Err(format!(
            "a serial number is 1 to {SERIAL_MAX_BYTES} printable ASCII characters"
        ));
    }
    Ok(serial.to_string())
}

/// Splits at single commas; two commas stand for one, as in QEMU's options.
pub(crate) fn split_fields(text: &str) -> Vec<String> {
    let mut fields = vec![String::new()];
    let mut rest = text.chars().peekable();
    while let Some(c) = rest.next() {
        if c == ',' && rest.next_if_eq(&',').is_none() {
            fields.push(String::new());
        } else if let Some(field) = fields.last_mut() {
            field.push(c);
        }
    }
    fields
}

#[cfg(test)]
mod tests {
    use disk::cache::{PolicyKind, WriteMode};

    use super::*;

    #[test]
    fn options_follow_the_path_in_any_order() {
        let text =
            "vm.img,serial=S 1,readonly,l2-cache-size=2M,data-file=d,,1,format=raw,snapshot=s";
        let disk: DiskArgument = text.parse().unwrap();
        assert_eq!(disk.path, PathBuf::from("vm.img"));
        assert!(disk.read_only);
        assert_eq!(disk.format, Some(Format::Raw));
        assert_eq!(disk.serial.as_deref(), Some("S 1"));
        assert_eq!(disk.l2_cache_bytes, Some(2 << 20));
        assert_eq!(disk.data_file, Some("d,1".into()));
        assert_eq!(disk.snapshot.as_deref(), Some("s"));
    }

    #[test]
    fn an_order_may_need_the_number_of_a_system_call() {
        for (order, name) in [
            (Order::Journal, "journal"),
            (Order::Ordered, "ordered"),
            (Order::Barrier, "barrier"),
            (Order::Unsafe, "unsafe"),
        ] {
            let text = format!("a,order={name}");
            let disk: DiskArgument = text.parse().unwrap();
            assert_eq!((disk.order, disk.barrier_syscall), (Some(order), None));
        }
        let disk: DiskArgument = "a,barrier-syscall=470,order=barrier".parse().unwrap();
        assert_eq!(disk.order, Some(Order::Barrier));
        assert_eq!(disk.barrier_syscall, Some(470));
        assert_eq!("a".parse::<DiskArgument>().unwrap().order, None);
    }

    #[test]
    fn a_base_may_be_copied_when_it_is_read_and_before() {
        let copying = |text: &str| text.parse::<DiskArgument>().unwrap().copying;
        assert_eq!(copying("a"), Copying::default());
        let both = copying("a,copy-on-read,prefetch");
        assert!(both.on_read && both.prefetch == Some(Prefetch::default()));
        let rate = copying("a,prefetch=10M").prefetch.unwrap();
        assert_eq!(rate.bytes_per_s, Some(10 << 20));
    }

    #[test]
    fn a_trace_goes_with_prefetch() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let path = file.path().display();
        std::fs::write(file.path(), "microvm trace 1\n4096 512\n").unwrap();
        for text in [
            format!("a,prefetch,trace={path}"),
            format!("a,trace={path},prefetch=1M"),
        ] {
            let disk: DiskArgument = text.parse().unwrap();
            let trace = disk.copying.prefetch.unwrap().trace.unwrap();
            assert_eq!((trace.ranges().len(), trace.bytes()), (1, 512));
        }
        let error = format!("a,trace={path}").parse::<DiskArgument>();
        assert!(error.unwrap_err().contains("prefetch only"));
        let error = "a,prefetch,trace=/nowhere/trace".parse::<DiskArgument>();
        assert!(error.unwrap_err().contains("cannot read the trace"));
    }

    #[test]
    fn alike_data_may_be_stored_once() {
        let dedup = |text: &str| text.parse::<DiskArgument>().unwrap().dedup_bytes;
        assert_eq!(dedup("a,format=qcow2"), None);
        assert_eq!(dedup("a,format=qcow2,dedup=16M"), Some(16 << 20));
        let disk: DiskArgument = "a,format=qcow2,dedup=16M".parse().unwrap();
        let overlaid = |format| disk.overlaid("b".into(), format).dedup_bytes;
        assert_eq!(overlaid(Format::Qcow2), Some(16 << 20));
        assert_eq!(overlaid(Format::Flat), None);
    }

    #[test]
    fn a_deadline_is_in_seconds() {
        let deadline = |text: &str| text.parse::<DiskArgument>().unwrap().deadline;
        assert_eq!(deadline("nbd://host/a,readonly"), None);
        assert_eq!(deadline("a,deadline=90"), Some(Duration::from_secs(90)));
        assert_eq!(deadline("a,deadline=0.5"), Some(Duration::from_millis(500)));
    }

    #[test]
    fn a_device_may_grow_by_a_command() {
        let parsed = |text: &str| text.parse::<DiskArgument>().unwrap().grow;
        assert_eq!(parsed("a"), None);
        assert_eq!(parsed("a,grow"), Some(GrowCommand::default()));
        let command = Some(GrowCommand::new("lvextend -L +1G,x"));
        assert_eq!(parsed("a,grow=lvextend -L +1G,,x"), command);
    }

    #[test]
    fn a_cache_may_be_in_memory_or_in_a_file() {
        let cache = |text: &str| text.parse::<DiskArgument>().unwrap().cache;
        assert_eq!(cache("a"), None);
        assert_eq!(cache("a,cache=2M"), Some(CacheOptions::new(2 << 20)));
        let all = "a,cache-write=back,cache-policy=lru,cache=1G,cache-file=b,,c,cache-classes=off";
        let expected = CacheOptions::new(1 << 30)
            .file("b,c")
            .write_mode(WriteMode::Back)
            .policy(PolicyKind::Lru)
            .by_class(false);
        assert_eq!(cache(all), Some(expected));
        assert!(cache("a,readonly,cache=1T,cache-file=b").is_some());
    }

    #[test]
    fn the_hosts_page_cache_may_be_left_out() {
        let direct = |text: &str| text.parse::<DiskArgument>().unwrap().direct;
        assert!(!direct("a"));
        assert!(direct("a,direct=on") && !direct("a,direct=on,direct=off"));
        let overlaid = |text: &str| {
            let disk: DiskArgument = text.parse().unwrap();
            disk.overlaid("b".into(), Format::Qcow2).direct
        };
        assert!(overlaid("a,direct=on") && !overlaid("a"));
        assert!(!direct("nbd://host/a,readonly,direct=off"));
        // No file of procfs can be opened so.
        let argument: DiskArgument = "/proc/self/status,readonly,direct=on".parse().unwrap();
        let executor = disk::Executor::new().unwrap();
        let opened = executor.run(argument.open_options().open());
        let error = opened.err().expect("should be refused").to_string();
        assert!(error.contains("cannot do direct I/O"), "{error}");
    }

    #[test]
    fn two_commas_in_a_path_are_one() {
        let disk: DiskArgument = "a,,b,readonly".parse().unwrap();
        assert_eq!(disk.path, PathBuf::from("a,b"));
        assert!(disk.read_only);
    }

    #[test]
    fn what_is_not_known_is_refused_by_name() {
        for (text, part) in [
            ("", "path is missing"),
            (",readonly", "path is missing"),
            ("a,readonly=1", "'readonly=1'"),
            ("a,cache=none", "unknown unit"),
            ("a,cache=0", "between 1M and 1T"),
            ("a,cache=2T", "between 1M and 1T"),
            ("a,cache=1T", "half of the host's memory"),
            ("a,cache", "'cache'"),
            ("a,cache=1M,cache-file=", "'cache-file='"),
            ("a,cache-file=b", "cache-file= needs cache=SIZE"),
            ("a,cache-write=back", "cache-write= needs cache=SIZE"),
            ("a,cache-policy=lru", "cache-policy= needs cache=SIZE"),
            ("a,cache-classes=off", "cache-classes= needs cache=SIZE"),
            ("a,cache=1M,cache-classes=some", "on or off"),
            ("a,cache=1M,cache-write=around", "known: through, back"),
            ("a,cache=1M,cache-policy=fifo", "known: s3-fifo, lru"),
            (
                "a,cache=1M,cache-write=back,readonly",
                "disks that are written",
            ),
            (
                "a,cache=1M,cache-write=back,snapshot=s",
                "disks that are written",
            ),
            ("a,cache=1M,cache-file=b,snapshot=s", "not for snapshot="),
            ("a,", "''"),
            ("a,format=vmdk", "vmdk"),
            ("a,l2-cache-size=much", "unknown unit"),
            ("a,data-file=", "'data-file='"),
            ("a,order=", "unknown order ''"),
            ("a,order=sync", "journal, ordered, barrier, unsafe"),
            ("a,order=barrier,barrier-syscall=", "not the number"),
            ("a,order=barrier,barrier-syscall=+1", "not the number"),
            ("a,order=barrier,barrier-syscall=0x1d6", "not the number"),
            (
                "a,order=barrier,barrier-syscall=4294967296",
                "not the number",
            ),
            ("a,barrier-syscall=470", "order=barrier only"),
            ("a,barrier-syscall=470,order=ordered", "order=barrier only"),
            ("a,prefetch=0", "would never end"),
            ("a,prefetch=fast", "unknown unit"),
            ("a,record-trace=", "'record-trace='"),
            ("a,readonly,copy-on-read", "leave out readonly"),
            ("a,dedup=1K", "64K or more"),
            ("a,dedup=1000T", "half of the host's memory"),
            ("a,dedup=1M,readonly", "leave out readonly"),
            ("a,deadline=", "deadline=: give"),
            ("a,deadline=0", "number of seconds"),
            ("a,deadline=-1", "number of seconds"),
            ("a,deadline=inf", "number of seconds"),
            ("a,readonly,grow", "leave out readonly"),
            ("a,grow=", "'grow='"),
            ("a,direct", "'direct'"),
            ("a,direct=yes", "direct=yes: give on or off"),
            ("nbd://host/a,readonly,direct=on", "far away"),
            ("a,serial=", "1 to 20"),
            ("a,serial=123456789012345678901", "1 to 20"),
        ] {
            let error = text.parse::<DiskArgument>().unwrap_err();
            assert!(error.contains(part), "{text}: {error}");
        }
    }
}
