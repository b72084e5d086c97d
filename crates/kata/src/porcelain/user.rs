// Copyright the kata authors. SPDX-License-Identifier: Apache-2.0

//! Who `--user` or the image's `User` is, by the container's own /etc/passwd and /etc/group. Pure: it knows no files.

use base::{Error, Kind, Result};

/// The numbers for the spec.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Identity {
    pub uid: u32,
    pub gid: u32,
    /// Further groups that list the user.
    pub groups: Vec<u32>,
}

/// The two files of a container, as they are; empty where they do not exist.
#[derive(Debug, Clone, Default)]
pub struct Accounts {
    pub passwd: String,
    pub group: String,
}

/// One line of passwd.
struct User<'a> {
    name: &'a str,
    uid: u32,
    gid: u32,
}

impl Accounts {
    /// Lines that make no sense are passed over, as libc does.
    fn users(&self) -> impl Iterator<Item = User<'_>> {
        self.passwd.lines().filter_map(|line| {
            let mut fields = line.split(':');
            let name = fields.next()?;
            let uid = fields.nth(1)?.parse().ok()?;
            let gid = fields.next()?.parse().ok()?;
            Some(User { name, uid, gid })
        })
    }

    /// Name, number and members.
    fn groups(&self) -> impl Iterator<Item = (&str, u32, &str)> {
        self.group.lines().filter_map(|line| {
            let mut fields = line.split(':');
            let name = fields.next()?;
            let gid = fields.nth(1)?.parse().ok()?;
            Some((name, gid, fields.next().unwrap_or_default()))
        })
    }

    /// `NAME|UID[:NAME|GID]`; nobody said anything: root. Errors: `NotFound` for a name that is not there.
    pub fn resolve(&self, text: &str) -> Result<Identity> {
        let none = |what: &str, name: &str| Error::new(Kind::NotFound, format!("the container has no {what} {name:?}"));
        let (user, group) = text
            .split_once(':')
            .map_or((text, None), |(user, group)| (user, Some(group)));
        let user = if user.is_empty() { "0" } else { user };
        let number: Option<u32> = user.parse().ok();
        let named = self.users().find(|known| known.name == user);
        let known = named.or_else(|| self.users().find(|known| Some(known.uid) == number));
        let (uid, own) = match (&known, number) {
            (Some(known), _) => (known.uid, known.gid),
            (None, Some(uid)) => (uid, 0),
            (None, None) => return Err(none("user", user)),
        };
        if let Some(group) = group.filter(|group| !group.is_empty()) {
            let found = self.groups().find(|(name, ..)| *name == group).map(|(_, gid, _)| gid);
            let gid = found.or_else(|| group.parse().ok());
            let gid = gid.ok_or_else(|| none("group", group))?;
            return Ok(Identity {
                uid,
                gid,
                groups: Vec::new(),
            });
        }
        let member = |members: &str| {
            known
                .as_ref()
                .is_some_and(|known| members.split(',').any(|name| name == known.name))
        };
        let groups = self
            .groups()
            .filter(|(_, gid, members)| *gid != own && member(members))
            .map(|(_, gid, _)| gid)
            .collect();
        Ok(Identity { uid, gid: own, groups })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn accounts() -> Accounts {
        Accounts {
            passwd:
                "# no line\nroot:x:0:0:root:/root:/bin/sh\nweb:x:33:34::/var/www:/bin/sh\n7:x:8:9::/:\nbroken:x:a:b\n"
                    .into(),
            group: "root:x:0:\nweb:x:34:web\nlog:x:50:other,web\nwheel:x:10:root\nbad\n".into(),
        }
    }

    #[test]
    fn names_and_numbers_are_those_of_the_container() {
        let is = |uid, gid, groups: &[u32]| Identity {
            uid,
            gid,
            groups: groups.to_vec(),
        };
        for (text, want) in [
            ("", is(0, 0, &[10])),
            ("root", is(0, 0, &[10])),
            ("web", is(33, 34, &[50])),
            ("33", is(33, 34, &[50])),
            ("web:log", is(33, 50, &[])),
            ("web:", is(33, 34, &[50])),
            ("1000", is(1000, 0, &[])),
            ("1000:1000", is(1000, 1000, &[])),
            (":50", is(0, 50, &[])),
            ("7", is(8, 9, &[])),
        ] {
            assert_eq!(accounts().resolve(text).unwrap(), want, "{text:?}");
        }
        for (text, word) in [
            ("nobody", "no user \"nobody\""),
            ("web:none", "no group \"none\""),
            ("-1", "no user \"-1\""),
        ] {
            assert!(accounts().resolve(text).unwrap_err().chain().contains(word), "{text}");
        }
        assert_eq!(Accounts::default().resolve("5:6").unwrap(), is(5, 6, &[]));
    }
}
