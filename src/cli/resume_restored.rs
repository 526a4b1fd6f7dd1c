//! `outboxd resume --restored`: a restored copy takes the original's place.

use serde_json::json;

use super::actor::actor;
use super::bulk::confirmed;
use super::{Answer, Verdict, same_installation, say, say_aside, say_json};
use crate::config::Config;
use crate::store::Link;
use crate::store::restored::{self, Copy, Standing};

/// Says what is open, asks unless `yes`, moves the ids of messages above all that were ever given
/// away, makes this cluster the installation's own and resumes.
///
/// `ids_above` is the highest id the receivers have seen; without it ids go on a billion higher.
pub(super) async fn resume_restored(
    link: &Link,
    config: &Config,
    ids_above: Option<i64>,
    yes: bool,
    as_json: bool,
) -> Answer {
    same_installation(link, config).await?;
    let before = restored::standing(link).await?;
    if !as_json {
        say_aside(&words_before(&before, ids_above));
    }
    if !yes && !confirmed("resume it in the original's place")? {
        say_aside("nothing was changed");
        return Ok(Verdict::Ok);
    }
    let first_id = restored::resume_restored(link, &actor(), ids_above).await?;
    let after = restored::standing(link).await?;
    if as_json {
        say_json(&json!({
            "restored": before.copy == Copy::Restored,
            "open_before": before.open.to_string(),
            "open_after": after.open.to_string(),
            "highest_id": before.highest_id,
            "first_id": first_id,
        }));
    } else {
        say(&format!(
            "resumed: {} open before, {} now; new messages get ids from {first_id}",
            before.open, after.open
        ));
    }
    Ok(Verdict::Ok)
}

fn words_before(found: &Standing, ids_above: Option<i64>) -> String {
    let what = match found.copy {
        Copy::Restored => "this database was restored or cloned into another cluster",
        Copy::Original => {
            "nothing shows that this database was restored: the cluster is the one it was made in, \
             as it also is after a restore of its files or to a point in time"
        }
        Copy::Unknown => "the server does not tell whether this database was restored",
    };
    let highest = found.highest_id;
    let ids = match ids_above {
        None => format!("{highest}; they go on a billion higher"),
        Some(named) if named > highest => format!("{highest}; they go on above {named}"),
        Some(_) => format!("{highest}; they go on above it"),
    };
    format!(
        "{what}\n\
         open deliveries: {}; what the original has delivered since is sent again, under the same \
         idempotency key\n\
         highest message id it knows: {ids}\n\
         the original must not run any more: both would give the same ids to different messages",
        found.open
    )
}
