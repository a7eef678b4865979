//! A report as one HTML file: for a ticket, a phone, a screen reader.
//!
//! The page is drawn from the same [`Report`] as text and JSON. It has no script and loads nothing:
//! its Content-Security-Policy forbids both. [`Page`] is the only writer. It takes markup as
//! `&'static str` and escapes every other text, so no text of an image can become markup.

use core::fmt::Write as _;

use super::{Check, Finding, Report, Severity};
use crate::error::{Escaped, counted};

/// The size past which no more findings and facts are written, in bytes.
const MAX_PAGE: usize = 2 << 20;
/// The most lines of evidence of one finding.
const MAX_EVIDENCE: usize = 50;

/// A link of the chain from the driver to the framework, in its order.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum Link {
    /// The host: driver, device nodes, kernel.
    Host,
    /// The container engine, and the definitions that it reads.
    Engine,
    /// The image, or its Dockerfile.
    Image,
    /// A running container, or its definition.
    Container,
}

impl Link {
    const ALL: [Self; 4] = [Self::Host, Self::Engine, Self::Image, Self::Container];

    /// The link of a check's area; `None` for an explained text.
    const fn of(check: &Check) -> Option<Self> {
        match check.number / 100 {
            71 => Some(Self::Host),
            72 => Some(Self::Engine),
            73 | 75 | 77 => Some(Self::Image),
            74 | 76 => Some(Self::Container),
            _ => None,
        }
    }

    /// The link that an area of the doctor examines: `engine docker`.
    pub fn of_area(area: &str) -> Option<Self> {
        match area.split(' ').next()? {
            "host" => Some(Self::Host),
            "engine" => Some(Self::Engine),
            "image" | "dockerfile" => Some(Self::Image),
            "container" | "compose" => Some(Self::Container),
            _ => None,
        }
    }

    const fn name(self) -> &'static str {
        match self {
            Self::Host => "Host",
            Self::Engine => "Engine",
            Self::Image => "Image",
            Self::Container => "Container",
        }
    }

    /// The command that examines it.
    const fn command(self) -> &'static str {
        match self {
            Self::Host => "nvoci doctor host",
            Self::Engine => "nvoci doctor engine",
            Self::Image => "nvoci doctor image IMAGE",
            Self::Container => "nvoci doctor container ID",
        }
    }
}

/// A report, and the link that it is about.
#[derive(Clone, Copy, Debug)]
pub struct Section<'a> {
    /// The report.
    pub report: &'a Report,
    /// The link; `None` if it is not known, as for an explained text without an area.
    pub link: Option<Link>,
}

impl<'a> Section<'a> {
    fn link_of(self, finding: &Finding) -> Option<Link> {
        Link::of(finding.check).or(self.link)
    }

    /// The findings, the worst first.
    fn findings(self) -> Vec<&'a Finding> {
        let mut findings: Vec<&Finding> = self.report.findings.iter().collect();
        findings.sort_by_key(|f| core::cmp::Reverse(f.severity));
        findings
    }
}

/// Draws the page. `made` is the time, as in RFC 3339.
pub fn page(sections: &[Section<'_>], made: &str) -> String {
    let verdict = sections.iter().map(|s| s.report.verdict()).max();
    let verdict = verdict.unwrap_or(Severity::Ok);
    let mut page = Page::default();
    page.markup(HEAD);
    page.markup("<title>nvoci doctor: ");
    page.text(title(sections));
    page.markup(" (");
    page.text(verdict.name());
    page.markup(")</title>\n<style>");
    page.markup(STYLE);
    page.markup("</style>\n</head>\n<body>\n<main>\n");
    page.header(sections, verdict, made);
    page.chain(sections);
    for section in sections {
        page.section(*section, sections.len() > 1);
    }
    page.markup("<footer><p>Made by nvoci ");
    page.text(env!("CARGO_PKG_VERSION"));
    page.markup(". Control characters in texts of an image or a container are escaped.</p></footer>\n");
    page.markup("</main>\n</body>\n</html>\n");
    page.out
}

fn title<'a>(sections: &[Section<'a>]) -> &'a str {
    sections.first().map_or("", |s| s.report.title.as_str())
}

/// The worst finding of a link over all sections, if it is a warning or a failure.
fn worst<'a>(sections: &[Section<'a>], link: Link) -> Option<&'a Finding> {
    let of_link = |s: &Section<'a>| {
        let s = *s;
        s.report
            .findings
            .iter()
            .filter(move |f| s.link_of(f) == Some(link))
    };
    sections
        .iter()
        .flat_map(of_link)
        .filter(|f| f.severity >= Severity::Warn)
        // Of equal ones the first, as in the text.
        .reduce(|worst, f| if f.severity > worst.severity { f } else { worst })
}

/// The sentence for a verdict.
const fn sentence(verdict: Severity) -> &'static str {
    match verdict {
        Severity::Ok | Severity::Info => "No fault was found",
        Severity::Warn => "It works, or will until something changes",
        Severity::Fail => "Something cannot work",
    }
}

/// The word for a finding's severity.
const fn word(severity: Severity) -> &'static str {
    match severity {
        Severity::Ok => "Passed",
        Severity::Info => "Note",
        Severity::Warn => "Warning",
        Severity::Fail => "Failure",
    }
}

/// HTML that is being written.
#[derive(Default)]
struct Page {
    out: String,
}

impl Page {
    /// Writes markup, which is a text of this program.
    fn markup(&mut self, markup: &'static str) {
        self.out.push_str(markup);
    }

    /// Writes a text of any origin.
    fn text(&mut self, text: &str) {
        for c in Escaped(text).to_string().chars() {
            match c {
                '&' => self.out.push_str("&amp;"),
                '<' => self.out.push_str("&lt;"),
                '>' => self.out.push_str("&gt;"),
                '"' => self.out.push_str("&quot;"),
                '\'' => self.out.push_str("&#39;"),
                '`' => self.out.push_str("&#96;"),
                c => self.out.push(c),
            }
        }
    }

    /// Writes a number.
    fn number(&mut self, number: usize) {
        // Writing to a String cannot fail.
        let _ = write!(self.out, "{number}");
    }

    /// Writes a text in which backticks enclose code.
    fn prose(&mut self, text: &str) {
        let parts: Vec<&str> = text.split('`').collect();
        // An odd backtick encloses nothing.
        if parts.len().is_multiple_of(2) {
            return self.text(text);
        }
        for (at, part) in parts.iter().enumerate() {
            if at % 2 == 1 {
                self.element("<code>", part, "</code>");
            } else {
                self.text(part);
            }
        }
    }

    fn element(&mut self, begin: &'static str, text: &str, end: &'static str) {
        self.markup(begin);
        self.text(text);
        self.markup(end);
    }

    /// Whether there is room for more.
    fn has_room(&self) -> bool {
        self.out.len() < MAX_PAGE
    }

    /// Writes a mark. Each severity has a shape of its own, so the color alone means nothing.
    fn mark(&mut self, severity: Option<Severity>) {
        self.markup(match severity {
            Some(Severity::Ok) => {
                "<svg class=\"mark ok\" viewBox=\"0 0 20 20\" aria-hidden=\"true\"><circle cx=\"10\" cy=\"10\" r=\"9\"/><path d=\"M5.8 10.4l2.8 2.8 5.6-6\"/></svg>"
            }
            Some(Severity::Info) => {
                "<svg class=\"mark info\" viewBox=\"0 0 20 20\" aria-hidden=\"true\"><circle cx=\"10\" cy=\"10\" r=\"9\"/><path d=\"M10 9v5.2M10 5.6v.2\"/></svg>"
            }
            Some(Severity::Warn) => {
                "<svg class=\"mark warn\" viewBox=\"0 0 20 20\" aria-hidden=\"true\"><path class=\"shape\" d=\"M10 1.6l9 16H1z\"/><path d=\"M10 7.2v5M10 14.8v.2\"/></svg>"
            }
            Some(Severity::Fail) => {
                "<svg class=\"mark fail\" viewBox=\"0 0 20 20\" aria-hidden=\"true\"><path class=\"shape\" d=\"M6.2 1h7.6L19 6.2v7.6L13.8 19H6.2L1 13.8V6.2z\"/><path d=\"M6.8 6.8l6.4 6.4M13.2 6.8l-6.4 6.4\"/></svg>"
            }
            None => {
                "<svg class=\"mark none\" viewBox=\"0 0 20 20\" aria-hidden=\"true\"><circle class=\"shape\" cx=\"10\" cy=\"10\" r=\"8.5\"/></svg>"
            }
        });
    }

    /// A class that colors by severity.
    fn class(&mut self, begin: &'static str, severity: Option<Severity>) {
        self.markup(begin);
        self.markup(severity.map_or("none", Severity::name));
        self.markup("\">");
    }

    fn header(&mut self, sections: &[Section<'_>], verdict: Severity, made: &str) {
        self.markup("<header>\n<p class=\"tool\">nvoci doctor</p>\n");
        self.element("<h1>", title(sections), "</h1>\n");
        self.class("<p class=\"verdict ", Some(verdict));
        self.mark(Some(verdict));
        self.element(
            "<strong>",
            sentence(verdict),
            "</strong></p>\n<p class=\"about\">",
        );
        let count = |severity| {
            let of = |s: &Section<'_>| {
                s.report
                    .findings
                    .iter()
                    .filter(|f| f.severity == severity)
                    .count()
            };
            sections.iter().map(of).sum::<usize>()
        };
        for (severity, one, many) in [
            (Severity::Fail, "failure", "failures"),
            (Severity::Warn, "warning", "warnings"),
            (Severity::Info, "note", "notes"),
            (Severity::Ok, "check passed", "checks passed"),
        ] {
            if count(severity) > 0 {
                self.text(&counted(count(severity), one, many));
                self.markup(" · ");
            }
        }
        self.element("<time>", made, "</time></p>\n</header>\n");
    }

    /// Draws the chain. The first link with a failure is the broken one.
    fn chain(&mut self, sections: &[Section<'_>]) {
        let judged = |link| {
            sections
                .iter()
                .any(|s| s.link == Some(link) || s.report.findings.iter().any(|f| s.link_of(f) == Some(link)))
        };
        let failed = |link: &Link| worst(sections, *link).is_some_and(|f| f.severity == Severity::Fail);
        let broken = Link::ALL.into_iter().find(failed);
        self.markup("<section aria-labelledby=\"chain\">\n<h2 id=\"chain\">The chain to the GPU</h2>\n");
        self.markup("<ol class=\"chain\">\n");
        for link in Link::ALL {
            let worst = worst(sections, link);
            let state = judged(link).then(|| worst.map_or(Severity::Ok, |f| f.severity));
            self.class(
                if Some(link) == broken {
                    "<li class=\"link broken "
                } else {
                    "<li class=\"link "
                },
                state,
            );
            self.markup("<h3>");
            self.mark(state);
            self.text(link.name());
            self.markup("</h3>\n<p class=\"state\">");
            self.markup(match state {
                _ if Some(link) == broken => "Broken here",
                Some(Severity::Fail) => "Broken too",
                Some(Severity::Warn) => "Works, with a warning",
                Some(_) => "No fault found",
                None => "Not checked",
            });
            self.markup("</p>\n");
            match (worst, state) {
                (Some(finding), _) => {
                    self.markup("<p>");
                    self.element("<b class=\"subject\">", &finding.subject, "</b>: ");
                    self.prose(&finding.cause);
                    self.markup("</p>\n");
                    self.fix(finding);
                }
                (None, None) => {
                    self.element(
                        "<p class=\"hint\">To check it: <code>",
                        link.command(),
                        "</code></p>\n",
                    );
                }
                (None, Some(_)) => {}
            }
            self.markup("</li>\n");
        }
        self.markup("</ol>\n</section>\n");
    }

    fn fix(&mut self, finding: &Finding) {
        if !finding.fix.is_empty() {
            self.markup("<p class=\"fix\"><b>Fix</b> ");
            self.prose(&finding.fix);
            self.markup("</p>\n");
        }
    }

    fn section(&mut self, section: Section<'_>, titled: bool) {
        let report = section.report;
        self.markup("<section>\n<h2>Findings");
        if titled {
            self.element(": ", &report.title, "");
        }
        self.markup("</h2>\n");
        let findings = section.findings();
        let passed = findings.iter().filter(|f| f.severity == Severity::Ok).count();
        let (open, passing) = findings.split_at(findings.len() - passed);
        if findings.is_empty() {
            self.markup("<p>There are none.</p>\n");
        }
        let mut omitted = report.omitted;
        for finding in open {
            if self.has_room() {
                self.finding(finding);
            } else {
                omitted += 1;
            }
        }
        if !passing.is_empty() {
            self.markup("<details class=\"passed\">\n<summary>");
            self.text(&counted(passing.len(), "check passed", "checks passed"));
            self.markup("</summary>\n<ul>\n");
            for finding in passing {
                if !self.has_room() {
                    omitted += 1;
                    continue;
                }
                self.markup("<li>");
                self.mark(Some(Severity::Ok));
                self.markup("<span>");
                self.element("<b class=\"subject\">", &finding.subject, "</b>: ");
                self.prose(&finding.cause);
                self.markup("</span></li>\n");
            }
            self.markup("</ul>\n</details>\n");
        }
        self.markup("</section>\n");
        omitted += self.facts(report);
        if omitted > 0 {
            self.element(
                "<p class=\"omitted\">",
                &counted(omitted, "more entry is not shown", "more entries are not shown"),
                ".</p>\n",
            );
        }
    }

    fn finding(&mut self, finding: &Finding) {
        self.class("<article class=\"finding ", Some(finding.severity));
        self.markup("\n<h3>");
        self.mark(Some(finding.severity));
        self.element("<span class=\"word\">", word(finding.severity), "</span> ");
        self.element("<span class=\"subject\">", &finding.subject, "</span></h3>\n<p>");
        self.prose(&finding.cause);
        self.markup("</p>\n");
        self.fix(finding);
        if !finding.evidence.is_empty() {
            self.markup(if finding.severity == Severity::Fail {
                "<details open>\n<summary>Evidence ("
            } else {
                "<details>\n<summary>Evidence ("
            });
            self.number(finding.evidence.len());
            self.markup(")</summary>\n<ul>\n");
            for line in finding.evidence.iter().take(MAX_EVIDENCE) {
                self.element("<li>", line, "</li>\n");
            }
            if finding.evidence.len() > MAX_EVIDENCE {
                self.markup("<li>…</li>\n");
            }
            self.markup("</ul>\n</details>\n");
        }
        self.element("<p class=\"code\">", &finding.check.to_string(), " · ");
        self.element("", finding.check.name, "</p>\n</article>\n");
    }

    /// Writes the facts; returns the number of those without room.
    fn facts(&mut self, report: &Report) -> usize {
        if report.facts.is_empty() {
            return 0;
        }
        let mut omitted = 0;
        self.markup("<section>\n<h2>Facts</h2>\n<table>\n<thead><tr><th scope=\"col\">Name</th>");
        self.markup("<th scope=\"col\">Value</th><th scope=\"col\">Source</th></tr></thead>\n<tbody>\n");
        for fact in &report.facts {
            if !self.has_room() {
                omitted += 1;
                continue;
            }
            self.element("<tr><th scope=\"row\">", &fact.name, "</th>");
            self.element("<td>", &fact.value, "</td>");
            self.element("<td class=\"source\">", &fact.source, "</td></tr>\n");
        }
        self.markup("</tbody>\n</table>\n</section>\n");
        omitted
    }
}

/// The page up to the title. Its policy forbids scripts and every request.
const HEAD: &str = include_str!("html/head.html");

const STYLE: &str = include_str!("html/style.css");

#[cfg(test)]
mod tests;
