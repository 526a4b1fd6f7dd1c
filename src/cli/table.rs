//! Text in columns, as wide as what stands in them.

use super::words::plain;

/// Rows of text; the first is the heading.
pub(super) struct Table {
    rows: Vec<Vec<String>>,
    /// Columns of numbers, which end alike.
    right: &'static [usize],
}

impl Table {
    pub fn new(heading: &[&str], right: &'static [usize]) -> Table {
        Table { rows: vec![heading.iter().map(|&cell| cell.to_owned()).collect()], right }
    }

    pub fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        self.rows.push(cells.into_iter().map(|cell| plain(&cell)).collect());
    }

    /// The rows, each with its end of line. The last column is not filled up.
    pub fn text(&self) -> String {
        let columns = self.rows.iter().map(Vec::len).max().unwrap_or(0);
        let width = |at: usize| {
            let cells = self.rows.iter().filter_map(|row| row.get(at));
            cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
        };
        let widths: Vec<usize> = (0..columns).map(width).collect();
        let mut out = String::new();
        for row in &self.rows {
            let cells = row.iter().zip(&widths).enumerate().map(|(at, (cell, width))| {
                let width = *width;
                if self.right.contains(&at) {
                    format!("{cell:>width$}")
                } else {
                    format!("{cell:<width$}")
                }
            });
            let line = cells.collect::<Vec<_>>().join("  ");
            out.push_str(line.trim_end());
            out.push('\n');
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up() {
        let mut table = Table::new(&["SINK", "DUE", "WHY"], &[1]);
        table.row(["crm".to_owned(), "10000+".to_owned(), String::new()]);
        table.row(["thumbnails".to_owned(), "3".to_owned(), "ä\tb".to_owned()]);
        assert_eq!(
            table.text(),
            "SINK           DUE  WHY\n\
             crm         10000+\n\
             thumbnails       3  ä?b\n"
        );
    }
}
