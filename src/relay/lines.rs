//! Lines: what a query answers becomes the lines of a file, in constant memory.

use crate::config::{Column, ColumnForm, ValuePath};
use crate::store::query::QueryColumn;
use crate::store::snapshot::{Answer, QueryError, form};

/// About how many bytes of lines are written at a time.
const PAGE_BYTES: usize = 256 * 1024;

/// The lines of an answer, page by page.
pub struct Lines<'a> {
    answer: Answer<'a>,
    make: Make<'a>,
    rows: u64,
}

type Make<'a> = Box<dyn Fn(&[Option<&str>]) -> Result<Vec<u8>, String> + Send + Sync + 'a>;

impl<'a> Lines<'a> {
    /// The lines that `make` makes of the rows.
    #[must_use]
    pub fn new(
        answer: Answer<'a>,
        make: impl Fn(&[Option<&str>]) -> Result<Vec<u8>, String> + Send + Sync + 'a,
    ) -> Lines<'a> {
        Lines { answer, make: Box::new(make), rows: 0 }
    }

    /// The next lines; none after the last. What waits for them must not be dropped and begun again.
    ///
    /// # Errors
    /// What the query met, or the row of which no line can be made: by its number and the column's name,
    /// never the value.
    pub async fn page(&mut self) -> Result<Option<Vec<u8>>, QueryError> {
        let mut page = Vec::new();
        while page.len() < PAGE_BYTES {
            let row = self.answer.next().await.map_err(|error| self.after_rows(error))?;
            let Some(row) = row else { break };
            self.rows += 1;
            let line = (self.make)(&row.texts()?);
            let line = line.map_err(|e| QueryError::Query(format!("row {}: {e}", self.rows)))?;
            page.extend_from_slice(&line);
        }
        Ok((!page.is_empty()).then_some(page))
    }

    /// How many rows there were so far.
    #[must_use]
    pub fn rows(&self) -> u64 {
        self.rows
    }

    fn after_rows(&self, error: QueryError) -> QueryError {
        match error {
            QueryError::Query(words) if self.rows > 0 => {
                QueryError::Query(format!("after row {}: {words}", self.rows))
            }
            other => other,
        }
    }
}

/// The columns of a file: those of the config out of those of the query, or all that the query has.
/// Beside each, the query's column that it is read from. The form `text` leaves it to the query's type, so
/// that numbers stay numbers.
///
/// # Errors
/// Which column the query has not, or has twice.
pub fn choose(
    configured: &[Column],
    found: &[QueryColumn],
) -> Result<(Vec<Column>, Vec<QueryColumn>), String> {
    let twice = |(at, column): &(usize, &QueryColumn)| {
        found[..*at].iter().any(|earlier| earlier.name == column.name)
    };
    if let Some((_, column)) = found.iter().enumerate().find(twice) {
        let name = &column.name;
        return Err(format!("the query has two columns named {name}; name each by itself with AS"));
    }
    if configured.is_empty() {
        let column = |found: &QueryColumn| Column {
            name: found.name.clone(),
            value: ValuePath::Query(found.name.clone()),
            form: form(found),
        };
        return Ok((found.iter().map(column).collect(), found.to_vec()));
    }
    let (mut columns, mut sources) = (Vec::new(), Vec::new());
    for column in configured {
        let ValuePath::Query(wanted) = &column.value else {
            return Err(format!("column {} is not one of the query", column.name));
        };
        let source = found.iter().find(|found| found.name == *wanted).ok_or_else(|| {
            let names: Vec<&str> = found.iter().map(|found| found.name.as_str()).collect();
            format!("the query has no column {wanted}; it has {}", names.join(", "))
        })?;
        let form = if column.form == ColumnForm::Text { form(source) } else { column.form };
        columns.push(Column { form, ..column.clone() });
        sources.push(source.clone());
    }
    Ok((columns, sources))
}

#[cfg(test)]
mod tests {
    use tokio_postgres::types::Type;

    use super::*;

    fn found(names: &[(&str, Type)]) -> Vec<QueryColumn> {
        let column = |(name, kind): &(&str, Type)| QueryColumn {
            name: (*name).to_owned(),
            kind: kind.clone(),
        };
        names.iter().map(column).collect()
    }

    fn column(name: &str, value: &str, form: ColumnForm) -> Column {
        Column { name: name.to_owned(), value: ValuePath::Query(value.to_owned()), form }
    }

    #[test]
    fn without_configured_columns_a_file_has_all_of_the_query_by_their_types() {
        let found = found(&[("b", Type::NUMERIC), ("a", Type::TEXT)]);
        let (columns, sources) = choose(&[], &found).unwrap();
        let wanted = [column("b", "b", ColumnForm::Decimal), column("a", "a", ColumnForm::Text)];
        assert_eq!((columns.as_slice(), sources), (wanted.as_slice(), found));
    }

    #[test]
    fn configured_columns_pick_by_name_and_text_leaves_the_form_to_the_type() {
        let found = found(&[("id", Type::INT4), ("total", Type::FLOAT8)]);
        let configured =
            [column("Total", "total", ColumnForm::Text), column("Id", "id", ColumnForm::Decimal)];
        let (columns, sources) = choose(&configured, &found).unwrap();
        let forms: Vec<ColumnForm> = columns.iter().map(|column| column.form).collect();
        assert_eq!(forms, [ColumnForm::Decimal, ColumnForm::Decimal]);
        assert_eq!((sources[0].name.as_str(), sources[1].name.as_str()), ("total", "id"));
        let missing = [column("x", "sum", ColumnForm::Text)];
        let said = choose(&missing, &found).unwrap_err();
        assert_eq!(said, "the query has no column sum; it has id, total");
        let twice = [found[0].clone(), found[0].clone()];
        assert!(choose(&[], &twice).unwrap_err().contains("two columns named id"));
    }
}
