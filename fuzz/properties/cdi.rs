//! A CDI specification, in both formats: what is accepted is written and read back as it was.

use nvoci::cdi::read::{Format, parse};
use nvoci::cdi::{Valid, emit, validate::validate};
use nvoci::sys::budget::Budget;

use crate::count::reached;

/// Must hold for every input. The first byte chooses the format.
pub(crate) fn check(input: &[u8]) {
    reached("run");
    let Some((&first, bytes)) = input.split_first() else {
        return;
    };
    let format = if first % 2 == 0 {
        Format::Yaml
    } else {
        Format::Json
    };
    let Ok(spec) = parse(bytes, format, "fuzz", &Budget::default()) else {
        return;
    };
    reached("accepted");
    validate(&spec).expect("what was accepted is valid");
    let valid = Valid::of(spec.clone()).expect("what was accepted can be written");
    assert_eq!(*valid.spec(), spec);
    for (text, format) in [
        (emit::yaml(&valid), Format::Yaml),
        (emit::json(&valid), Format::Json),
    ] {
        let again = parse(text.as_bytes(), format, "again", &Budget::default())
            .expect("what was written can be read");
        assert_eq!(again, spec, "{text}");
    }
}
