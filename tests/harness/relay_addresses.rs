//! Ways to write an address of another host, which a server must not relay to.

/// Addresses of other hosts, written so that a careless server takes them for its own.
pub const RELAY_ADDRESSES: &[&str] = &[
    // Without any trick, and domains that resemble ours.
    "<victim@else.example>",
    "<smith@else.example>",
    "<victim@here.example.else.example>",
    "<victim@xhere.example>",
    "<victim@else.example.>",
    "victim@else.example",
    "<victim@[192.0.2.1]>",
    "<victim@[IPv6:2001:db8::1]>",
    "<victim@\\[192.0.2.1\\]>",
    "<victim@3221225985>",
    // Percent signs.
    "<victim%else.example>",
    "<victim%else.example@here.example>",
    "<victim%else.example@[127.0.0.1]>",
    "<victim%else.example@localhost>",
    "<victim%else.example%here.example@here.example>",
    "<smith%else.example@here.example>",
    "<\"victim%else.example\"@here.example>",
    // Bangs.
    "<else.example!victim>",
    "<else.example!victim@here.example>",
    "<else.example!victim@[127.0.0.1]>",
    "<here.example!else.example!victim@here.example>",
    "<else.example!smith@here.example>",
    // Source routes.
    "<@here.example:victim@else.example>",
    "<@here.example,@else.example:victim@else.example>",
    "<@[127.0.0.1]:victim@else.example>",
    "<@else.example:victim@else.example>",
    "<@here.example:@else.example:victim@else.example>",
    "<@here.example:victim%else.example@here.example>",
    "<@here.example:else.example!victim@here.example>",
    // A quoted @.
    "<\"victim@else.example\">",
    "<\"victim@else.example\"@here.example>",
    "<\"victim@else.example\"@[127.0.0.1]>",
    "<\"victim\\@else.example\"@here.example>",
    "<\"@else.example:victim\"@here.example>",
    "<\"smith@here.example\"@else.example>",
    "<\"victim\"@else.example>",
    "<victim\\@else.example@here.example>",
    // More than one @.
    "<victim@else.example@here.example>",
    "<smith@here.example@else.example>",
    "<victim@else.example@[127.0.0.1]>",
    "<victim@else.example@>",
    "<victim@@else.example>",
    "<smith@>",
    "<@else.example>",
    // A tag belongs to its user.
    "<smith+victim@else.example@here.example>",
    "<smith+x@else.example>",
    // Several addresses, and text after one.
    "<smith@here.example,victim@else.example>",
    "<smith@here.example>,<victim@else.example>",
    "<smith@here.example> <victim@else.example>",
    "<smith@here.example;victim@else.example>",
    "<smith@here.example\tvictim@else.example>",
    "<victim@else.example> NOTIFY=NEVER",
    // Programs, files and directories.
    "<|/bin/sh@here.example>",
    "<\"|/bin/sh\"@here.example>",
    "</etc/passwd@here.example>",
    "<../smith@here.example>",
    "<\":include:/etc/passwd\"@here.example>",
];
