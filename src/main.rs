//! Which door: argv[0], else the first word.

fn main() {}
