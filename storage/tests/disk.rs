//! Disks: that the real and the simulated one are the same to whoever uses them, and that the simulated
//! one breaks as disks do. What the other tests show is worth no more than this.

mod directory;

use std::io::ErrorKind;
use std::sync::Arc;

use directory::Directory;
use synod_storage::disk::{Disk, DiskFile, Fault, OpenMode, RealDisk, SimDisk, Survival};

const SECTOR: usize = 512;

fn content(file: &dyn DiskFile) -> Vec<u8> {
    let mut bytes = vec![0; usize::try_from(file.len().unwrap()).unwrap()];
    assert_eq!(file.read_at(&mut bytes, 0).unwrap(), bytes.len());
    bytes
}

fn refused<T: std::fmt::Debug>(result: std::io::Result<T>) -> ErrorKind {
    result.expect_err("it must be refused").kind()
}

/// What every disk does.
fn conforms(disk: &dyn Disk) {
    let missing = |path| refused(disk.open(path, OpenMode::Existing));
    assert_eq!(missing("a"), ErrorKind::NotFound);
    assert_eq!(
        refused(disk.open("d/a", OpenMode::Create)),
        ErrorKind::NotFound
    );
    assert_eq!(refused(disk.list("d")), ErrorKind::NotFound);
    disk.create_dir("d").unwrap();
    disk.create_dir("d").unwrap();
    assert_eq!(disk.list("d").unwrap(), Vec::<String>::new());

    // Positional reads and writes; a gap is zeros; a read ends with the file.
    let file = disk.open("d/b", OpenMode::Create).unwrap();
    assert!(file.is_empty().unwrap());
    file.write_at(b"world", 8).unwrap();
    file.write_at(b"hello", 0).unwrap();
    assert_eq!(content(&*file), b"hello\0\0\0world");
    let mut buffer = [7; 8];
    assert_eq!(file.read_at(&mut buffer, 10).unwrap(), 3);
    assert_eq!(&buffer[..4], b"rld\x07");
    assert_eq!(file.read_at(&mut buffer, 100).unwrap(), 0);
    file.set_len(4).unwrap();
    file.set_len(6).unwrap();
    assert_eq!(content(&*file), b"hell\0\0");
    file.sync_data().unwrap();

    // Two handles are one file; making it again empties it.
    let again = disk.open("d/b", OpenMode::Existing).unwrap();
    again.write_at(b"!", 5).unwrap();
    assert_eq!(content(&*file), b"hell\0!");
    let emptied = disk.open("d/b", OpenMode::Create).unwrap();
    assert!(emptied.is_empty().unwrap() && file.is_empty().unwrap());

    // Names: sorted, of one directory, of files only; a rename takes the place of what is there.
    disk.open("d/a", OpenMode::Create).unwrap();
    disk.open("top", OpenMode::Create).unwrap();
    assert_eq!(disk.list("d").unwrap(), ["a", "b"]);
    assert_eq!(disk.list("").unwrap(), ["top"]);
    emptied.write_at(b"new", 0).unwrap();
    disk.rename("d/b", "d/a").unwrap();
    disk.sync_dir("d").unwrap();
    disk.sync_dir("").unwrap();
    assert_eq!(disk.list("d").unwrap(), ["a"]);
    let moved = disk.open("d/a", OpenMode::Existing).unwrap();
    assert_eq!(content(&*moved), b"new");
    assert_eq!(refused(disk.rename("d/b", "d/c")), ErrorKind::NotFound);

    // Without a name it lives on for those who have it.
    disk.remove("d/a").unwrap();
    assert_eq!(missing("d/a"), ErrorKind::NotFound);
    assert_eq!(refused(disk.remove("d/a")), ErrorKind::NotFound);
    moved.write_at(b"s", 3).unwrap();
    assert_eq!(content(&*moved), b"news");
    assert!(disk.available_bytes().unwrap() > 0);
}

#[test]
fn the_real_and_the_simulated_disk_are_the_same() {
    let directory = Directory::new("conforms");
    conforms(&RealDisk::open(&directory.0).unwrap());
    conforms(&SimDisk::new(1));
}

/// A file of `sectors` old sectors, durable under its name.
fn durable(disk: &SimDisk, sectors: usize) -> Arc<dyn DiskFile> {
    let file = disk.open("f", OpenMode::Create).unwrap();
    file.write_at(&vec![b'o'; sectors * SECTOR], 0).unwrap();
    file.sync_data().unwrap();
    disk.sync_dir("").unwrap();
    file
}

fn reopened(disk: &SimDisk) -> Vec<u8> {
    content(&*disk.open("f", OpenMode::Existing).unwrap())
}

#[test]
fn a_kill_keeps_the_cache_and_a_power_cut_what_was_synced() {
    let disk = SimDisk::new(2);
    let file = durable(&disk, 2);
    file.write_at(b"new", 10).unwrap();
    let killed = disk.kill();
    assert_eq!(&reopened(&killed)[8..14], b"oonewo");
    assert!(file.write_at(b"x", 0).is_err(), "its process is dead");
    assert!(disk.list("").is_err());
    let cut = killed.power_loss(Survival::Nothing);
    assert_eq!(reopened(&cut), vec![b'o'; 2 * SECTOR]);
    let file = cut.open("f", OpenMode::Existing).unwrap();
    file.write_at(b"new", 10).unwrap();
    file.sync_data().unwrap();
    assert_eq!(
        &reopened(&cut.power_loss(Survival::Nothing))[8..14],
        b"oonewo"
    );
}

#[test]
fn a_power_cut_leaves_any_subset_of_unsynced_sectors() {
    let (mut with_holes, mut shorter) = (0, 0);
    for seed in 0..200 {
        let disk = SimDisk::new(seed);
        let file = durable(&disk, 4);
        // Over the old end, so that the length is in doubt, too.
        file.write_at(&[b'n'; 6 * SECTOR], SECTOR as u64).unwrap();
        let left = reopened(&disk.power_loss(Survival::Random));
        assert!((4 * SECTOR..=7 * SECTOR).contains(&left.len()));
        assert!(left.len().is_multiple_of(SECTOR));
        let sectors: Vec<u8> = left
            .chunks(SECTOR)
            .map(|sector| {
                // None is half one and half the other.
                assert!(sector.iter().all(|byte| *byte == sector[0]));
                sector[0]
            })
            .collect();
        assert_eq!(sectors[0], b'o', "it was not written");
        assert!(sectors[1..4].iter().all(|byte| b"on".contains(byte)));
        assert!(sectors[4..].iter().all(|byte| b"\0n".contains(byte)));
        shorter += u32::from(sectors.len() < 7);
        with_holes += u32::from(sectors[1] == b'o' && sectors[2] == b'n');
    }
    assert!(with_holes > 20, "later sectors survive earlier ones");
    assert!(shorter > 20);
    let disk = SimDisk::new(3);
    durable(&disk, 1).write_at(b"n", 0).unwrap();
    let all = reopened(&disk.power_loss(Survival::Everything));
    assert_eq!(all[0], b'n');
}

#[test]
fn names_are_lost_unless_their_directory_was_synced() {
    let mut lengths = std::collections::BTreeSet::new();
    for seed in 0..100 {
        let disk = SimDisk::new(seed);
        disk.create_dir("d").unwrap();
        for name in ["f", "d/a", "d/b", "d/c"] {
            let file = disk.open(name, OpenMode::Create).unwrap();
            file.write_at(b"x", 0).unwrap();
            file.sync_data().unwrap();
        }
        disk.sync_dir("").unwrap();
        let left = disk.power_loss(Survival::Random);
        assert_eq!(left.list("").unwrap(), ["f"]);
        let names = left.list("d").unwrap();
        // A prefix of what was done.
        assert_eq!(names, ["a", "b", "c"][..names.len()]);
        lengths.insert(names.len());
    }
    assert_eq!(lengths.len(), 4, "any prefix");
    let disk = SimDisk::new(4);
    durable(&disk, 1);
    disk.rename("f", "g").unwrap();
    let left = disk.power_loss(Survival::Nothing);
    assert_eq!(left.list("").unwrap(), ["f"]);
    left.remove("f").unwrap();
    assert_eq!(left.power_loss(Survival::Nothing).list("").unwrap(), ["f"]);
}

#[test]
fn a_failed_sync_marks_pages_clean() {
    let disk = SimDisk::new(5);
    let file = durable(&disk, 2);
    file.write_at(b"new", 0).unwrap();
    disk.inject(Fault::FailSync(0));
    assert!(file.sync_data().is_err());
    assert_eq!(&content(&*file)[..3], b"new", "the reader still sees them");
    file.write_at(b"later", SECTOR as u64).unwrap();
    file.sync_data().unwrap();
    // Not even the disk that loses nothing has what no sync wrote.
    let left = reopened(&disk.power_loss(Survival::Everything));
    assert_eq!(&left[..3], b"ooo");
    assert_eq!(&left[SECTOR..SECTOR + 5], b"later");
}

#[test]
fn a_disk_fails_as_it_is_told() {
    let disk = SimDisk::new(6);
    let file = durable(&disk, 4);
    disk.inject(Fault::FailRead(1));
    assert_eq!(content(&*file).len(), 4 * SECTOR);
    assert!(file.read_at(&mut [0; 4], 0).is_err());
    assert!(file.read_at(&mut [0; 4], 0).is_ok());

    disk.inject(Fault::FailWrite(0));
    assert!(file.write_at(b"new", 0).is_err());
    assert_eq!(content(&*file)[0], b'o');

    // It says that all is well.
    disk.inject(Fault::MisdirectWrite(0));
    file.write_at(b"new", 0).unwrap();
    assert_eq!(content(&*file)[0], b'o');
    assert_eq!(&content(&*file)[SECTOR..SECTOR + 3], b"new");

    disk.inject(Fault::Capacity(5 * SECTOR as u64));
    let grown = file.write_at(&[b'x'; 2 * SECTOR], 4 * SECTOR as u64);
    assert_eq!(refused(grown), ErrorKind::StorageFull);
    assert_eq!(
        refused(file.set_len(6 * SECTOR as u64)),
        ErrorKind::StorageFull
    );
    file.write_at(b"over", 0).unwrap();
    assert_eq!(disk.available_bytes().unwrap(), SECTOR as u64);
    disk.inject(Fault::Capacity(u64::MAX));

    disk.flip_bit("f", 3 * SECTOR as u64, 0);
    assert_eq!(content(&*file)[3 * SECTOR], b'o' ^ 1);
    let left = disk.power_loss(Survival::Nothing);
    assert_eq!(reopened(&left)[3 * SECTOR], b'o' ^ 1, "rot is durable");

    // The machine dies at the second operation, in the midst of a write.
    left.inject(Fault::CrashAfter(1));
    let before = left.operations();
    let file = left.open("f", OpenMode::Existing).unwrap();
    file.write_at(b"first", 0).unwrap();
    assert!(file.write_at(&[b'y'; 3 * SECTOR], 0).is_err());
    assert!(file.read_at(&mut [0; 4], 0).is_err(), "it is down");
    assert!(left.operations() > before);
    let seen = reopened(&left.kill());
    assert!(
        seen.chunks(SECTOR)
            .all(|sector| { sector[SECTOR - 1] == b'y' || !sector.contains(&b'y') })
    );
}
