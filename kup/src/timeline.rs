// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0
//! An update drawn over time: its phases, the copying of each application, and, if somebody has probed an application
//! meanwhile, its throughput.

use crate::checkpoint::Manifest;
use crate::system;
use crate::update::{Event, Step, Update};
use anyhow::{ensure, Context, Result};
use svg::node::element::{Group, Line, Polyline, Rectangle, Text, Title};
use svg::Document;

const WIDTH: f64 = 1000.0;
const LEFT: f64 = 150.0;
const RIGHT: f64 = 20.0;
const TOP: f64 = 40.0;
const ROW: f64 = 26.0;
const BAR: f64 = 16.0;
const PLOT: f64 = 140.0;

/// Answers per second of an application, at seconds since 1970.
pub type Throughput = Vec<(f64, f64)>;

/// Reads lines of two numbers with a comma or blanks between them: seconds since 1970, answers per second since
/// the line before. Other lines are comments or headings.
#[must_use]
pub fn throughput(text: &str) -> Throughput {
    let pair = |line: &str| -> Option<(f64, f64)> {
        let mut words = line.split([',', ' ', '\t']).filter(|word| !word.is_empty());
        Some((words.next()?.parse().ok()?, words.next()?.parse().ok()?))
    };
    let all = text.lines().filter_map(pair);
    all.filter(|(at, rate)| at.is_finite() && rate.is_finite())
        .collect()
}

/// Draws the last update.
///
/// # Errors
/// It has not come so far that there is anything to draw.
pub fn draw(update: &Update, members: &[Manifest], throughput: &Throughput) -> Result<String> {
    let phases = phases(&update.events);
    let (first, last) = phases
        .first()
        .zip(phases.last())
        .context("the update has done nothing yet")?;
    let scale = Scale::new(first.from, last.to)?;
    let mut document = Document::new().add(Title::new(format!(
        "{} to {}",
        update.members.join(", "),
        update.next_kernel
    )));
    document = document.add(label(
        LEFT,
        20.0,
        "start",
        &format!("{} → {}", first.kernel, update.next_kernel),
    ));
    let mut y = TOP;
    if let Some((from, to)) = still(&update.events) {
        let height =
            ROW * (members.len() + 1) as f64 + if throughput.is_empty() { 0.0 } else { PLOT };
        let shade = Rectangle::new()
            .set("x", scale.x(from))
            .set("y", TOP - 6.0)
            .set("width", scale.x(to) - scale.x(from))
            .set("height", height)
            .set("fill", "#f4d9d0");
        document = document.add(shade);
        let text = format!("stands still, {}", seconds(to - from));
        document = document.add(label(scale.x(from), TOP - 8.0, "start", &text));
    }
    if !throughput.is_empty() {
        document = document.add(plot(throughput, &scale, y));
        document = document.add(label(
            LEFT - 8.0,
            y + PLOT / 2.0,
            "end",
            "answers per second",
        ));
        y += PLOT;
    }
    document = document.add(label(LEFT - 8.0, y + BAR - 3.0, "end", "update"));
    for phase in &phases {
        document = document.add(bar(phase, &scale, y));
    }
    y += ROW;
    let copying = phases.iter().find(|phase| phase.step == Step::Copying);
    for member in members {
        document = document.add(label(LEFT - 8.0, y + BAR - 3.0, "end", &member.name));
        if let Some(copying) = copying {
            let text = rounds(member);
            document = document.add(label(scale.x(copying.from), y + BAR - 3.0, "start", &text));
        }
        y += ROW;
    }
    document = document.add(axis(&scale, y));
    let height = y + 40.0;
    document = document
        .set("viewBox", (0, 0, WIDTH, height))
        .set("width", WIDTH)
        .set("height", height)
        .set("font-family", "sans-serif")
        .set("font-size", 12);
    Ok(document.to_string() + "\n")
}

/// What was done from one event to the next.
struct Phase {
    step: Step,
    from: f64,
    to: f64,
    kernel: String,
}

fn phases(events: &[Event]) -> Vec<Phase> {
    let phase = |pair: &[Event]| Phase {
        step: pair[0].step,
        from: pair[0].at,
        to: pair[1].at,
        kernel: pair[0].kernel.clone(),
    };
    events.windows(2).map(phase).collect()
}

/// From when to when the applications stood still.
fn still(events: &[Event]) -> Option<(f64, f64)> {
    let at = |step: Step| events.iter().rev().find(|event| event.step == step);
    let from = at(Step::Stopping)?.at;
    let ended =
        |event: &&Event| event.at >= from && matches!(event.step, Step::Running | Step::Continued);
    Some((from, events.iter().find(ended)?.at))
}

fn words(step: Step) -> (&'static str, &'static str) {
    match step {
        Step::Copying => ("copied while it runs", "#8fb8de"),
        Step::Stopping => ("last round", "#d1495b"),
        Step::Stopped => ("sealed", "#9b2c3d"),
        Step::Switching => ("next kernel", "#edae49"),
        Step::Resuming => ("restored", "#66a182"),
        Step::Running => ("runs", "#c7e0c9"),
        Step::Continued => ("continued", "#c7e0c9"),
        Step::Failed => ("failed", "#777777"),
        Step::GivenUp => ("given up", "#777777"),
    }
}

fn bar(phase: &Phase, scale: &Scale, y: f64) -> Group {
    let (what, colour) = words(phase.step);
    let (x, end) = (scale.x(phase.from), scale.x(phase.to));
    let text = format!("{what}, {}", seconds(phase.to - phase.from));
    let rectangle = Rectangle::new()
        .set("x", x)
        .set("y", y)
        .set("width", (end - x).max(1.0))
        .set("height", BAR)
        .set("fill", colour)
        .add(Title::new(text.clone()));
    let group = Group::new().add(rectangle);
    // About seven units a letter.
    match end - x > 7.0 * text.chars().count() as f64 {
        true => group.add(label(x + 4.0, y + BAR - 4.0, "start", &text)),
        false => group,
    }
}

fn rounds(member: &Manifest) -> String {
    let all: Vec<String> = member
        .rounds
        .iter()
        .map(|round| {
            format!(
                "{} in {}",
                system::size(round.bytes),
                seconds(round.seconds)
            )
        })
        .collect();
    all.join(" · ")
}

fn plot(throughput: &Throughput, scale: &Scale, y: f64) -> Polyline {
    let most = throughput.iter().map(|&(_, rate)| rate).fold(1.0, f64::max);
    let shown = throughput.iter().filter(|(at, _)| scale.has(*at));
    let points: Vec<String> = shown
        .map(|&(at, rate)| {
            let height = (PLOT - 20.0) * rate.max(0.0) / most;
            format!("{:.1},{:.1}", scale.x(at), y + PLOT - 10.0 - height)
        })
        .collect();
    Polyline::new()
        .set("points", points.join(" "))
        .set("fill", "none")
        .set("stroke", "#1f4e79")
        .set("stroke-width", 1.5)
}

fn axis(scale: &Scale, y: f64) -> Group {
    let line = |x1: f64, y1: f64, x2: f64, y2: f64| {
        Line::new()
            .set("x1", x1)
            .set("y1", y1)
            .set("x2", x2)
            .set("y2", y2)
            .set("stroke", "#444444")
    };
    let mut group = Group::new().add(line(LEFT, y, WIDTH - RIGHT, y));
    let step = scale.step();
    let mut at = 0.0;
    while at <= scale.length {
        let x = scale.x(scale.start + at);
        group = group.add(line(x, y, x, y + 5.0));
        group = group.add(label(x, y + 20.0, "middle", &seconds(at)));
        at += step;
    }
    group
}

fn label(x: f64, y: f64, anchor: &str, text: &str) -> Text {
    Text::new(text)
        .set("x", x)
        .set("y", y)
        .set("text-anchor", anchor)
}

fn seconds(value: f64) -> String {
    match value {
        v if v >= 10.0 || v == 0.0 => format!("{v:.0} s"),
        v => format!("{v:.2} s"),
    }
}

/// From time to the place on the page.
struct Scale {
    start: f64,
    length: f64,
}

impl Scale {
    fn new(start: f64, end: f64) -> Result<Scale> {
        ensure!(
            start.is_finite() && end.is_finite() && end > start && end - start < 1e7,
            "the clock was set during the update: {start} to {end}"
        );
        Ok(Scale {
            start,
            length: end - start,
        })
    }

    fn has(&self, at: f64) -> bool {
        (0.0..=self.length).contains(&(at - self.start))
    }

    fn x(&self, at: f64) -> f64 {
        let part = ((at - self.start) / self.length).clamp(0.0, 1.0);
        LEFT + part * (WIDTH - LEFT - RIGHT)
    }

    /// Between two marks: 1, 2 or 5 of a power of ten, so that there are four to ten of them.
    fn step(&self) -> f64 {
        let power = 10f64.powf((self.length / 10.0).log10().ceil());
        [0.1, 0.2, 0.5, 1.0]
            .map(|part| part * power)
            .into_iter()
            .find(|step| self.length / step <= 10.0)
            .unwrap_or(power)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(step: Step, at: f64) -> Event {
        Event {
            step,
            at,
            uptime: at,
            kernel: "<old> & co".to_owned(),
            note: String::new(),
        }
    }

    fn update(events: Vec<Event>) -> Update {
        Update {
            version: 1,
            boot_id: String::new(),
            next_kernel: "7.3".to_owned(),
            members: vec!["redis".to_owned()],
            ports: Default::default(),
            last_pid: 0,
            criu_tables: None,
            events,
        }
    }

    #[test]
    fn all_phases_in_order() {
        let steps = [
            Step::Copying,
            Step::Stopping,
            Step::Stopped,
            Step::Switching,
            Step::Resuming,
            Step::Running,
        ];
        let events = steps
            .iter()
            .zip(0..)
            .map(|(&step, at)| event(step, 1e9 + f64::from(at)));
        let update = update(events.collect());
        assert_eq!(still(&update.events), Some((1e9 + 1.0, 1e9 + 5.0)));
        let drawn = draw(&update, &[], &vec![(1e9, 5.0), (1e9 + 2.0, 0.0)]).unwrap();
        assert_eq!(drawn.matches("<polyline").count(), 1);
        // The shade, and five phases.
        assert_eq!(drawn.matches("<rect").count(), 6);
        assert!(drawn.contains("stands still, 4.00 s"), "{drawn}");
        assert!(
            drawn.contains("&lt;old") && !drawn.contains("<old>"),
            "{drawn}"
        );
    }

    #[test]
    fn no_time_that_is_none() {
        assert!(draw(&update(vec![]), &[], &vec![]).is_err());
        let back = vec![event(Step::Copying, 5.0), event(Step::Continued, 1.0)];
        assert!(draw(&update(back), &[], &vec![]).is_err());
    }

    #[test]
    fn lines_of_two_numbers() {
        let read = throughput("time,rate\n1.5,100\n2.5 200\n# x\n3,inf\n");
        assert_eq!(read, [(1.5, 100.0), (2.5, 200.0)]);
    }

    #[test]
    fn few_marks() {
        for length in [0.3, 1.0, 7.0, 10.0, 11.0, 99.0, 1234.0] {
            let scale = Scale { start: 0.0, length };
            let marks = length / scale.step();
            assert!((3.9..=10.0).contains(&marks), "{length}: {marks}");
        }
    }
}
