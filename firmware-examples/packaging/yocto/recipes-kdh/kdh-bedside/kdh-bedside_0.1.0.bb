SUMMARY = "Labels clinical texts for the software beside it, offline"
DESCRIPTION = "A daemon that takes texts over a Unix socket or a serial line and answers with labels and their evidence. It \
is on no network and holds a fixed amount of memory."
HOMEPAGE = "https://example.invalid/kdh"
SECTION = "console/utils"
LICENSE = "MIT | Apache-2.0"
LIC_FILES_CHKSUM = " \
    file://LICENSE-MIT;md5=18d79528476961d8d824c05b75f6ba45 \
    file://LICENSE-APACHE;md5=3b83ef96387f14655fc854ddc3c6bd57 \
"

# Made by `firmware-examples/packaging/vendor`: it holds the sources of every crate.
SRC_URI = "file://kdh-${PV}.tar.xz"

S = "${UNPACKDIR}/kdh-${PV}"

inherit cargo systemd

# The archive's own configuration points Cargo to the vendored crates. The compile step has no network.
CARGO_DISABLE_BITBAKE_VENDORING = "1"
CARGO_SRC_DIR = "firmware-examples/bedside-service"
CARGO_BUILD_FLAGS:append = " --offline"

SYSTEMD_SERVICE:${PN} = "kdh-bedside.service"
# It needs a bundle and a trust file first.
SYSTEMD_AUTO_ENABLE = "disable"

do_install:append() {
    rm -f ${D}${bindir}/kdh-bedside-load
    install -D -m 0644 ${S}/firmware-examples/bedside-service/kdh-bedside.service \
        ${D}${systemd_system_unitdir}/kdh-bedside.service
    install -d ${D}${localstatedir}/lib/kdh ${D}${sysconfdir}/kdh
}

inherit useradd
USERADD_PACKAGES = "${PN}"
GROUPADD_PARAM:${PN} = "--system kdh"

FILES:${PN} += "${systemd_system_unitdir}/kdh-bedside.service ${localstatedir}/lib/kdh"
