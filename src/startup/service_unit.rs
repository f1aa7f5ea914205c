//! The installed service of systemd, `mailslot.service` with its drop-ins: the user, the groups and
//! the capabilities with which it would start the server, and the part of the file system that it
//! would see.
//!
//! systemd itself is not asked, because `mailslot check` must work before
//! `systemctl daemon-reload`.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use nix::unistd::Group;

use super::StartError;
use super::service_view::ServiceView;
use crate::process::privilege::{self, RunAs};
use crate::sysexits::{EX_CONFIG, EX_OSERR};

/// The identity that the installed service starts with.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ServiceUnit {
    /// `User=`
    pub user: String,
    /// `Group=`, or the empty text for the user's own group.
    pub group: String,
    /// `SupplementaryGroups=`
    pub groups: Vec<String>,
    /// `AmbientCapabilities=`
    pub capabilities: Vec<String>,
    /// The view of the file system.
    pub view: ServiceView,
}

impl ServiceUnit {
    /// Returns the installed service, or None if systemd does not run, if the service is not
    /// installed, or if it starts as root.
    pub fn installed() -> Option<ServiceUnit> {
        if !Path::new(BOOTED).is_dir() {
            return None;
        }
        let directories: Vec<PathBuf> = UNIT_DIRECTORIES.iter().map(PathBuf::from).collect();
        ServiceUnit::find(&directories)
    }

    /// Returns the service in the first of `directories` that has it, with the drop-ins in all.
    fn find(directories: &[PathBuf]) -> Option<ServiceUnit> {
        let main = directories
            .iter()
            .find_map(|directory| fs::read_to_string(directory.join(SERVICE)).ok())?;
        // If two drop-ins have one name, the one in the first directory counts.
        let mut drop_ins = BTreeMap::new();
        for directory in directories.iter().rev() {
            let drop_in_directory = directory.join(format!("{SERVICE}.d"));
            let entries = fs::read_dir(drop_in_directory).into_iter().flatten().flatten();
            for entry in entries {
                if entry.path().extension().is_some_and(|e| e == "conf") {
                    let text = fs::read_to_string(entry.path()).unwrap_or_default();
                    drop_ins.insert(entry.file_name(), text);
                }
            }
        }
        let mut unit = ServiceUnit::default();
        std::iter::once(&main).chain(drop_ins.values()).for_each(|text| unit.apply(text));
        (!unit.user.is_empty() && unit.user != "root" && unit.user != "0").then_some(unit)
    }

    /// Applies the settings of one file.
    fn apply(&mut self, text: &str) {
        for line in text.lines().map(str::trim) {
            let Some((key, value)) = line.split_once('=') else { continue };
            let (key, value) = (key.trim(), value.trim());
            let is_on = ["yes", "true", "on", "1"].contains(&value);
            let list = match key {
                "ProtectSystem" => {
                    self.view.read_only = value == "strict";
                    continue;
                }
                "ProtectHome" => {
                    self.view.hides_homes = is_on || value == "tmpfs";
                    continue;
                }
                "PrivateTmp" => {
                    self.view.private_tmp = is_on || value == "disconnected";
                    continue;
                }
                "ReadWritePaths" | "RuntimeDirectory" => {
                    let path = |word: &str| match key {
                        // A path that is optional begins with a minus sign.
                        "ReadWritePaths" => word.trim_start_matches(['-', '+']).to_owned(),
                        _ => format!("/run/{word}"),
                    };
                    if value.is_empty() {
                        self.view.writable.clear();
                    }
                    self.view.writable.extend(value.split_whitespace().map(path));
                    continue;
                }
                "User" => {
                    self.user = value.to_owned();
                    continue;
                }
                "Group" => {
                    self.group = value.to_owned();
                    continue;
                }
                "SupplementaryGroups" => &mut self.groups,
                "AmbientCapabilities" => &mut self.capabilities,
                _ => continue,
            };
            // An empty value empties a list (systemd.syntax(7)).
            if value.is_empty() {
                list.clear();
            }
            list.extend(value.split_whitespace().map(str::to_owned));
        }
    }

    /// Returns user and group in the form of `--run-as`.
    pub fn run_as(&self) -> RunAs {
        let group = (!self.group.is_empty()).then(|| self.group.clone());
        RunAs { user: self.user.clone(), group }
    }

    /// Gives this process, which must be root, the identity of the service.
    pub(super) fn become_it(&self) -> Result<(), StartError> {
        let at = |error: StartError| error.at("service");
        let account = self.run_as().look_up().map_err(|e| {
            let text = format!("{SERVICE} cannot start: {e}");
            at(StartError::new(EX_CONFIG, &text))
        })?;
        let group = |name: &String| Group::from_name(name).ok().flatten().map(|g| g.gid);
        let groups: Vec<_> = self.groups.iter().filter_map(group).collect();
        match self.view.apply() {
            // A container, in which root may not mount.
            Err(e) if e.kind() == io::ErrorKind::PermissionDenied => {}
            applied => applied.map_err(|e| {
                at(StartError::io(EX_OSERR, "cannot see what the service sees", &e))
            })?,
        }
        privilege::become_service(&account, &groups, &self.capabilities)
            .map_err(|e| at(StartError::io(EX_OSERR, "cannot become the user of the service", &e)))
    }

    /// Returns the service as one word, for [`parse`](ServiceUnit::parse).
    pub(super) fn to_word(&self) -> String {
        let ServiceView { read_only, hides_homes, private_tmp, writable } = &self.view;
        let lists = [self.groups.join(","), self.capabilities.join(","), writable.join(",")];
        let lists = lists.join(";");
        format!("{};{lists};{read_only};{hides_homes};{private_tmp}", self.run_as())
    }

    /// Parses the word that [`to_word`](ServiceUnit::to_word) returned.
    pub(super) fn parse(word: &str) -> Option<ServiceUnit> {
        let mut fields = word.split(';');
        let (user, group) = match fields.next()?.split_once(':') {
            Some((user, group)) => (user, group),
            None => (word.split(';').next()?, ""),
        };
        let list = |text: &str| {
            text.split(',').filter(|name| !name.is_empty()).map(str::to_owned).collect()
        };
        let (groups, capabilities) = (list(fields.next()?), list(fields.next()?));
        let writable = list(fields.next()?);
        let mut is = || fields.next().map(|word| word == "true");
        let view =
            ServiceView { writable, read_only: is()?, hides_homes: is()?, private_tmp: is()? };
        let (user, group) = (user.to_owned(), group.to_owned());
        Some(ServiceUnit { user, group, groups, capabilities, view })
    }
}

/// The name of the service.
pub(super) const SERVICE: &str = "mailslot.service";
/// A directory that exists if systemd booted the host (sd_booted(3)).
const BOOTED: &str = "/run/systemd/system";
/// Directories of units, by precedence (systemd.unit(5)).
const UNIT_DIRECTORIES: &[&str] = &[
    "/etc/systemd/system",
    "/run/systemd/system",
    "/usr/local/lib/systemd/system",
    "/usr/lib/systemd/system",
    "/lib/systemd/system",
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn drop_ins_change_the_service() {
        let directory = tempfile::tempdir().unwrap();
        let directories = ["etc", "lib"].map(|name| directory.path().join(name));
        let write = |path: &str, text: &str| {
            let path = directory.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        assert_eq!(ServiceUnit::find(&directories), None);
        let shipped = include_str!("../../contrib/systemd/mailslot.service");
        write("lib/mailslot.service", shipped);
        let unit = ServiceUnit::find(&directories).unwrap();
        assert_eq!(unit.run_as().to_string(), "mailslot:mail");
        assert!(unit.capabilities.contains(&"CAP_SETUID".to_owned()), "{unit:?}");
        let view = &unit.view;
        assert!(view.read_only && view.hides_homes && view.private_tmp, "{view:?}");
        assert_eq!(view.writable, ["/run/mailslot", "/var/mail", "/var/spool/mailslot"]);
        assert_eq!(ServiceUnit::parse(&unit.to_word()), Some(unit));

        write("lib/mailslot.service.d/10.conf", "[Service]\nUser=post\nAmbientCapabilities=\n");
        write("etc/mailslot.service.d/20.conf", "SupplementaryGroups=tty adm\nGroup=\n");
        write("lib/mailslot.service.d/20.conf", "User=other\n");
        let unit = ServiceUnit::find(&directories).unwrap();
        assert_eq!(unit.run_as().to_string(), "post");
        assert_eq!((unit.groups.len(), unit.capabilities.len()), (2, 0));
        let view = &unit.view;
        assert!(view.read_only && view.hides_homes && view.private_tmp, "{view:?}");
        assert_eq!(view.writable, ["/run/mailslot", "/var/mail", "/var/spool/mailslot"]);
        assert_eq!(ServiceUnit::parse(&unit.to_word()), Some(unit));

        write("etc/mailslot.service", "[Service]\nUser=root\n");
        write("lib/mailslot.service.d/10.conf", "");
        assert_eq!(ServiceUnit::find(&directories), None);
    }
}
