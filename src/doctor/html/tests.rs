use std::collections::HashMap;

use super::*;

const HOST: Check = check(7101, "host.driver");
const IMAGE: Check = check(7301, "image.runs");
const CONTAINER: Check = check(7401, "container.node");
const EXPLAIN: Check = check(7801, "explain.known");

const fn check(number: u16, name: &'static str) -> Check {
    Check {
        number,
        name,
        summary: "A test.",
    }
}

/// Texts that are markup, end an attribute, an element or a comment, or reorder what follows.
const HOSTILE: [&str; 8] = [
    "</script><img src=x onerror=alert(1)>",
    "</style><script>alert(1)</script>",
    "\"><svg onload=alert(1)>",
    "' onmouseover='alert(1)",
    "--><iframe src=//evil.example>",
    "`</code><base href=//evil.example>`",
    "&lt;script&gt; &#60;b&#62; &",
    "\u{202e}\u{0}\u{1b}]8;;http://evil.example\u{7}x",
];

fn draw(report: &Report, link: Option<Link>) -> String {
    page(&[Section { report, link }], "2026-11-30T01:00:00Z")
}

/// Whether every element is closed in order, and the elements and attributes in the page.
fn elements(html: &str) -> Vec<(String, String)> {
    const EMPTY: [&str; 6] = ["!doctype", "meta", "br", "path", "circle", "hr"];
    let mut open = Vec::new();
    let mut all = Vec::new();
    let mut rest = html;
    while let Some((_, after)) = rest.split_once('<') {
        let (tag, after) = after.split_once('>').expect("a tag ends");
        rest = after;
        if let Some(name) = tag.strip_prefix('/') {
            assert_eq!(open.pop().as_deref(), Some(name), "</{name}>");
            continue;
        }
        let (name, attributes) = tag.split_once([' ', '\n']).unwrap_or((tag, ""));
        all.push((name.to_owned(), attributes.to_owned()));
        if name == "style" {
            let end = rest.find("</style>").expect("a style ends");
            assert!(!rest[..end].contains('<'));
        }
        if !attributes.ends_with('/') && !EMPTY.contains(&name) {
            open.push(name.to_owned());
        }
    }
    assert!(open.is_empty(), "{open:?}");
    all
}

fn hostile_report() -> Report {
    let mut report = Report::new(format!("image {}", HOSTILE.join(" ")));
    for text in HOSTILE {
        report.fact(text, text, text);
        for severity in [Severity::Ok, Severity::Info, Severity::Warn, Severity::Fail] {
            report.add(
                Finding::new(&IMAGE, severity, text, text)
                    .fix(format!("`{text}` {text}"))
                    .evidence(text),
            );
        }
    }
    report
}

#[test]
fn no_text_becomes_markup() {
    let mut plain = Report::new("image x");
    plain.fact("x", "x", "x");
    for severity in [Severity::Ok, Severity::Info, Severity::Warn, Severity::Fail] {
        plain.add(
            Finding::new(&IMAGE, severity, "x", "x")
                .fix("`x` x")
                .evidence("x"),
        );
    }
    let html = draw(&hostile_report(), Some(Link::Image));
    let kinds = |html: &str| {
        let mut all = elements(html);
        all.sort();
        all.dedup();
        all
    };
    // The hostile page has the elements and attributes of the plain one, and no other.
    assert_eq!(kinds(&html), kinds(&draw(&plain, Some(Link::Image))));
    assert!(html.contains("&lt;/script&gt;&lt;img src=x onerror=alert(1)&gt;"));
    assert!(html.contains("&amp;lt;script&amp;gt;"));
    assert!(
        html.chars()
            .all(|c| c == '\n' || !c.is_control() && c != '\u{202e}')
    );
}

#[test]
fn nothing_is_loaded_and_nothing_runs() {
    let html = draw(&hostile_report(), None);
    for (name, attributes) in elements(&html) {
        assert!(
            ![
                "script", "img", "link", "iframe", "object", "base", "form", "a", "use"
            ]
            .contains(&name.as_str()),
            "{name}"
        );
        for forbidden in ["src=", "href=", " on", "style="] {
            assert!(!format!(" {attributes}").contains(forbidden), "{attributes}");
        }
    }
    assert!(html.contains("default-src 'none'"));
    let css = STYLE.to_lowercase();
    for forbidden in ["url(", "@import", "expression", "http"] {
        assert!(!css.contains(forbidden), "{forbidden}");
    }
}

/// The boxes of the chain, each with its class and its text.
fn chain(html: &str) -> Vec<(String, String)> {
    let (_, rest) = html.split_once("<ol class=\"chain\">").unwrap();
    let (chain, _) = rest.split_once("</ol>").unwrap();
    let boxes = chain.split("<li class=\"").skip(1);
    boxes
        .map(|b| {
            let (class, text) = b.split_once("\">").unwrap();
            (class.to_owned(), text.to_owned())
        })
        .collect()
}

#[test]
fn the_first_failure_of_the_chain_is_the_broken_link() {
    let mut report = Report::new("image x");
    report.add(Finding::new(&CONTAINER, Severity::Fail, "c", "later").fix("second"));
    report.add(Finding::new(&IMAGE, Severity::Warn, "i", "milder").fix("none"));
    report.add(Finding::new(&IMAGE, Severity::Fail, "i", "the cause").fix("run `x`"));
    report.add(Finding::new(&HOST, Severity::Ok, "h", "fine"));
    let boxes = chain(&draw(&report, Some(Link::Image)));
    let classes: Vec<&str> = boxes.iter().map(|(class, _)| class.as_str()).collect();
    assert_eq!(classes, ["link ok", "link none", "link broken fail", "link fail"]);
    assert!(boxes[1].1.contains("Not checked") && boxes[1].1.contains("nvoci doctor engine"));
    let broken = &boxes[2].1;
    for part in ["Broken here", "the cause", "<b>Fix</b> run <code>x</code>"] {
        assert!(broken.contains(part), "{broken}");
    }
    assert!(!broken.contains("milder"));
    assert!(boxes[3].1.contains("Broken too"));
}

#[test]
fn an_explained_text_stands_at_the_link_of_its_area() {
    let mut report = Report::new("explain");
    report.add(Finding::new(&EXPLAIN, Severity::Fail, "x", "y"));
    let link = Link::of_area("engine docker");
    assert_eq!(link, Some(Link::Engine));
    assert_eq!(chain(&draw(&report, link))[1].0, "link broken fail");
    // Without an area no link is blamed, and the finding is listed.
    let html = draw(&report, None);
    assert!(chain(&html).iter().all(|(class, _)| class == "link none"));
    assert!(html.contains("<span class=\"word\">Failure</span>"));
}

#[test]
fn the_page_has_the_verdict_and_every_text_of_the_report() {
    let mut report = Report::new("host");
    report.fact("driver", "580.159.04", "/proc/driver/nvidia/version");
    report.add(Finding::new(&HOST, Severity::Warn, "uvm", "missing").evidence("/dev/nvidia-uvm"));
    let html = draw(&report, Some(Link::Host));
    for text in [
        "580.159.04",
        "/proc/driver/nvidia/version",
        "uvm",
        "missing",
        "/dev/nvidia-uvm",
        "NVOCI-7101",
        "host.driver",
        "1 warning · ",
        "It works, or will until something changes",
        "<title>nvoci doctor: host (warn)</title>",
        "2026-11-30T01:00:00Z",
    ] {
        assert!(html.contains(text), "{text}");
    }
}

#[test]
fn a_page_of_any_report_is_bounded() {
    let mut report = Report::new("x");
    for _ in 0..1000 {
        let mut finding = Finding::new(&IMAGE, Severity::Fail, "<".repeat(600), "\u{1}".repeat(600));
        for _ in 0..2 * MAX_EVIDENCE {
            finding = finding.evidence("&".repeat(600));
        }
        report.add(finding);
        report.fact("<".repeat(600), "<".repeat(600), "<".repeat(600));
    }
    let html = draw(&report, None);
    assert!(html.len() < MAX_PAGE + (1 << 20), "{}", html.len());
    assert!(html.contains("more entries are not shown"));
    elements(&html);
}

#[test]
fn odd_backticks_enclose_nothing() {
    let mut page = Page::default();
    page.prose("a `b` c `d");
    assert_eq!(page.out, "a &#96;b&#96; c &#96;d");
}

/// The variables of the style in light and in dark.
fn colors() -> [HashMap<&'static str, [f64; 3]>; 2] {
    let color = |text: &str| {
        let hex: String = match text.strip_prefix('#').unwrap() {
            short if short.len() == 3 => short.chars().flat_map(|c| [c, c]).collect(),
            long => long.to_owned(),
        };
        [0, 2, 4].map(|at| f64::from(u8::from_str_radix(&hex[at..at + 2], 16).unwrap()))
    };
    let mut roots = STYLE.split(":root {").skip(1).map(|block| {
        let (block, _) = block.split_once('}').unwrap();
        let pairs = block.split(';').filter_map(|pair| pair.trim().split_once(": "));
        pairs
            .map(|(name, value)| (name.trim().strip_prefix("--").unwrap(), color(value)))
            .collect()
    });
    [roots.next().unwrap(), roots.next().unwrap()]
}

/// WCAG 2.2, "contrast ratio".
fn contrast(a: [f64; 3], b: [f64; 3]) -> f64 {
    let luminance = |color: [f64; 3]| {
        let [r, g, b] = color.map(|c| {
            let c = c / 255.0;
            if c <= 0.04045 {
                c / 12.92
            } else {
                ((c + 0.055) / 1.055).powf(2.4)
            }
        });
        0.2126 * r + 0.7152 * g + 0.0722 * b
    };
    let (a, b) = (luminance(a) + 0.05, luminance(b) + 0.05);
    if a > b { a / b } else { b / a }
}

#[test]
fn every_text_has_the_contrast_of_wcag_aa() {
    for colors in colors() {
        let mut pairs = vec![
            ("ink", "page"),
            ("ink", "card"),
            ("ink", "code"),
            ("soft", "page"),
            ("soft", "card"),
            ("none", "page"),
        ];
        for name in ["ok", "info", "warn", "fail"] {
            pairs.push((name, "card"));
            let background = ["ok-bg", "info-bg", "warn-bg", "fail-bg"];
            let background = background.into_iter().find(|b| b.starts_with(name)).unwrap();
            pairs.extend([(name, background), ("ink", background)]);
        }
        for (text, background) in pairs {
            let ratio = contrast(colors[text], colors[background]);
            assert!(ratio >= 4.5, "{text} on {background}: {ratio:.2}");
        }
    }
}
