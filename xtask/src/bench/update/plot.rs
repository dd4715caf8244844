// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0
//! The stops and restores over the amount of memory, drawn.

use super::super::Measure;
use anyhow::{Context, Result};
use svg::node::element::{Circle, Line, Polyline, Text};
use svg::Document;

/// Memory, as measures call it, and in MiB. Of the largest there is not every way.
const SIZES: [(&str, f64); 6] = [
    ("64m", 64.0),
    ("128m", 128.0),
    ("256m", 256.0),
    ("512m", 512.0),
    ("1g", 1024.0),
    ("2g", LARGEST),
];
const LARGEST: f64 = 2048.0;

/// Measure, whether it is its own figure or the one that it is compared with, name and colour.
const SERIES: [(&str, bool, &str, &str); 4] = [
    (
        "simple.PANEL_SIZE_ext4dax",
        true,
        "simple, ext4-DAX",
        "#b8860b",
    ),
    ("foam.PANEL_SIZE", false, "simple, RP-RAMFS", "#b03a2e"),
    ("incremental.PANEL_SIZE", true, "incremental", "#5b6770"),
    ("foam.PANEL_SIZE", true, "kup (FOAM)", "#1f77b4"),
];

const PANELS: [(&str, &str); 2] = [
    ("stop", "stands still for the checkpoint"),
    ("restore", "from the restore's begin until it runs"),
];

const WIDTH: f64 = 440.0;
const HEIGHT: f64 = 300.0;
const LEFT: f64 = 50.0;
const TOP: f64 = 40.0;
const BOTTOM: f64 = 60.0;
/// Of the panel's width, for what the lines are called.
const RIGHT: f64 = 130.0;

/// An SVG of both.
pub fn draw(measures: &[Measure]) -> Result<String> {
    let mut document = Document::new()
        .set("viewBox", (0, 0, 2.0 * WIDTH, HEIGHT))
        .set("font-family", "sans-serif")
        .set("font-size", 11);
    for (n, (panel, title)) in PANELS.into_iter().enumerate() {
        document = one(document, n as f64 * WIDTH, panel, title, measures)?;
    }
    Ok(document.to_string())
}

fn one(
    mut document: Document,
    left: f64,
    panel: &str,
    title: &str,
    measures: &[Measure],
) -> Result<Document> {
    let mut lines = Vec::new();
    for (name, ours, label, colour) in SERIES {
        let mut line = Vec::new();
        for (size, mib) in SIZES {
            let name = name.replace("PANEL", panel).replace("SIZE", size);
            let measure = measures.iter().find(|measure| measure.measure == name);
            if measure.is_none() && mib == LARGEST {
                continue;
            }
            let measure = measure.with_context(|| format!("no measure {name}"))?;
            line.push((
                mib,
                if ours {
                    measure.value
                } else {
                    measure.baseline
                },
            ));
        }
        lines.push((line, label, colour));
    }
    let seconds = lines
        .iter()
        .flat_map(|(line, ..)| line.iter().map(|point| point.1));
    let most = (seconds.fold(0.0, f64::max) * 5.0).ceil() / 5.0;
    let (x0, x1, y0) = (left + LEFT, left + WIDTH - RIGHT, HEIGHT - BOTTOM);
    let x = |mib: f64| x0 + (x1 - x0) * (mib / 64.0).log2() / (LARGEST / 64.0).log2();
    let y = |seconds: f64| y0 - (y0 - TOP) * seconds / most;

    document = document.add(text(title, x0, TOP - 18.0, "start")).add(text(
        "MiB of the process",
        (x0 + x1) / 2.0,
        y0 + 36.0,
        "middle",
    ));
    for (_, mib) in SIZES {
        document = document.add(text(&format!("{mib}"), x(mib), y0 + 18.0, "middle"));
    }
    for step in 0..=4 {
        let seconds = most * f64::from(step) / 4.0;
        let rule = Line::new()
            .set("x1", x0)
            .set("x2", x1)
            .set("y1", y(seconds))
            .set("y2", y(seconds))
            .set("stroke", "#d0d4d8");
        document = document.add(rule).add(text(
            &format!("{seconds:.2} s"),
            x0 - 6.0,
            y(seconds) + 4.0,
            "end",
        ));
    }
    for (n, (line, label, colour)) in lines.iter().enumerate() {
        let points: Vec<String> = line
            .iter()
            .map(|point| format!("{:.1},{:.1}", x(point.0), y(point.1)))
            .collect();
        document = document.add(
            Polyline::new()
                .set("points", points.join(" "))
                .set("fill", "none")
                .set("stroke", *colour)
                .set("stroke-width", 2),
        );
        for point in line {
            document = document.add(
                Circle::new()
                    .set("cx", x(point.0))
                    .set("cy", y(point.1))
                    .set("r", 3)
                    .set("fill", *colour),
            );
        }
        let at = TOP + 16.0 * n as f64;
        document = document.add(text(label, x1 + 14.0, at, "start").set("fill", *colour));
    }
    Ok(document)
}

fn text(said: &str, x: f64, y: f64, anchor: &str) -> Text {
    Text::new(said)
        .set("x", x)
        .set("y", y)
        .set("text-anchor", anchor)
}
