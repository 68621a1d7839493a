//! Which files of the log's folder a path names: only those of a C2SP tiled log.

use proto::tile::Place;

/// A static file and how it may be kept by others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct LogFile<'a> {
    pub(super) relative: &'a str,
    pub(super) content_type: &'static str,
    pub(super) cache_control: &'static str,
}

/// Reads a path below `/log/`. A tile never changes; the checkpoint always does.
///
/// # Source
/// C2SP tlog-tiles, "Serving checkpoints, tiles, and entry bundles".
pub(super) fn parse(path: &str) -> Option<LogFile<'_>> {
    if path == "checkpoint" {
        let (content_type, cache_control) = ("text/plain; charset=utf-8", "no-cache");
        return Some(LogFile {
            relative: path,
            content_type,
            cache_control,
        });
    }
    Place::of_path(path)?;
    let (content_type, cache_control) = ("application/octet-stream", "public, max-age=31536000, immutable");
    Some(LogFile {
        relative: path,
        content_type,
        cache_control,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn paths_of_a_tiled_log_are_served_and_no_others() {
        for good in [
            "checkpoint",
            "tile/0/000",
            "tile/1/x001/x234/067",
            "tile/0/000.p/3",
            "tile/entries/x001/234.p/255",
        ] {
            assert_eq!(parse(good).map(|f| f.relative), Some(good));
        }
        for bad in [
            "",
            "key",
            "tile",
            "tile/0",
            "tile/0/../../seq",
            "tile/0/0",
            "tile/0/x001",
            "tile/0/001/002",
            "tile/0/000.p/0",
            "tile/0/000.p/256",
            "tile/0/000.p",
            "tile/0/000.p/03",
            "tile/abc/000",
            "/checkpoint",
            "tile//000",
            "tile/0/000.tmp",
        ] {
            assert_eq!(parse(bad), None, "{bad}");
        }
    }

    proptest! {
        #[test]
        fn no_path_climbs_out_of_the_log(path in "(tile/)?[a-z0-9./x%]{0,30}") {
            if let Some(file) = parse(&path) {
                prop_assert!(!file.relative.contains("..") && !file.relative.starts_with('/'));
            }
        }
    }
}
