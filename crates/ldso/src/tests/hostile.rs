//! Images that are made to be slow to scan. The bound is a counted amount of work, so the tests
//! need no clock.

use std::os::unix::fs::symlink;

use super::*;

/// A chain of 39 links of 4095 bytes at `/c` that ends at a library.
fn chain(image: &Image) {
    image.library("c/libend.so.1");
    let long = |next: &str| format!("{}{next}", "./".repeat((4095 - next.len()) / 2));
    symlink(long("libend.so.1"), image.path("c/l0")).unwrap();
    for i in 1..39 {
        symlink(long(&format!("l{}", i - 1)), image.path(&format!("c/l{i}"))).unwrap();
    }
}

/// The libraries that a scan finds, and its warnings.
fn scanned(image: &Image) -> (usize, Vec<String>) {
    let found = image.update();
    assert!(matches!(found.how, How::Rebuilt { .. }), "{:?}", found.how);
    let cache = Cache::parse(&found.bytes).unwrap();
    (cache.entries().count(), found.warnings)
}

#[test]
fn links_that_lead_through_long_chains_end_a_scan() {
    let image = Image::new();
    chain(&image);
    image.library("usr/local/lib/libown.so.1");
    for i in 0..2000 {
        symlink("/c/l38", image.path(&format!("usr/local/lib/lib{i}.so"))).unwrap();
    }
    let (found, warnings) = scanned(&image);
    assert!(found < 100, "{found} libraries");
    assert!(
        warnings
            .iter()
            .any(|w| w == "/usr/local/lib: the rest is left out: its links and libraries take too much work"),
        "{warnings:?}"
    );
}

#[test]
fn thousands_of_links_to_elsewhere_are_all_followed() {
    let image = Image::new();
    std::fs::create_dir_all(image.path("usr/local/lib")).unwrap();
    for i in 0..5000 {
        let name = format!("lib{i}.so.1");
        if i < 10 {
            image.library(&format!("opt/store/package/lib/{name}"));
        }
        let target = format!("../../../opt/store/./package/lib/lib{}.so.1", i % 10);
        symlink(target, image.path(&format!("usr/local/lib/{name}"))).unwrap();
    }
    let (found, warnings) = scanned(&image);
    assert!(found >= 10, "{found} libraries");
    assert!(!warnings.iter().any(|w| w.contains("too m")), "{warnings:?}");
}

#[test]
fn libraries_with_large_tables_end_a_scan() {
    let image = Image::new();
    // A dynamic section of 64 KiB that has its soname at its end.
    let filler = vec![(0x6fff_fff0, "x"); 4000];
    let mut library = elf64("libx.so.1", &filler);
    library.resize(library.len() + (64 << 10), 0);
    image.file("usr/local/lib/lib.so", &library);
    for i in 0..9000 {
        let name = image.path(&format!("usr/local/lib/lib{i}.so"));
        std::fs::hard_link(image.path("usr/local/lib/lib.so"), name).unwrap();
    }
    let (_, warnings) = scanned(&image);
    assert!(
        warnings
            .iter()
            .any(|w| w.contains("links and libraries take too much work")),
        "{warnings:?}"
    );
}

#[test]
fn a_configuration_behind_long_chains_is_left_out() {
    let image = Image::new();
    chain(&image);
    symlink(".", image.path("c/libend.d")).unwrap();
    let mut names = String::new();
    for i in 0..200 {
        symlink("l38", image.path(&format!("c/{i}"))).unwrap();
        names += &format!("/c/{i}\n");
    }
    image.file("etc/ld.so.conf", names.as_bytes());
    let mut warnings = Warnings::default();
    let conf = Some(Path::new(conf::DEFAULT));
    dirs::collect(&image.root, &ARCHES[0], &[], &[], conf, &mut warnings);
    assert_eq!(
        warnings.into_lines(),
        ["too many library directories; the rest is left out"]
    );
}
