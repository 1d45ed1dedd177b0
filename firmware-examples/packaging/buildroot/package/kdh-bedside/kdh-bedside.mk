################################################################################
#
# kdh-bedside
#
################################################################################

KDH_BEDSIDE_VERSION = 0.1.0
KDH_BEDSIDE_SOURCE = kdh-$(KDH_BEDSIDE_VERSION).tar.xz
KDH_BEDSIDE_SITE = $(BR2_EXTERNAL_KDH_PATH)/dl
KDH_BEDSIDE_SITE_METHOD = file
KDH_BEDSIDE_LICENSE = MIT or Apache-2.0
KDH_BEDSIDE_LICENSE_FILES = LICENSE-MIT LICENSE-APACHE
KDH_BEDSIDE_DEPENDENCIES = host-rustc

# Not cargo-package: it vendors while downloading, and the archive is vendored
# already. The compile step has no network.
define KDH_BEDSIDE_BUILD_CMDS
	cd $(@D)/firmware-examples/bedside-service && \
		$(TARGET_MAKE_ENV) $(TARGET_CONFIGURE_OPTS) $(PKG_CARGO_ENV) \
		cargo build --offline --locked --release
endef

define KDH_BEDSIDE_INSTALL_TARGET_CMDS
	$(INSTALL) -D -m 0755 \
		$(@D)/firmware-examples/bedside-service/target/$(RUSTC_TARGET_NAME)/release/kdh-bedside \
		$(TARGET_DIR)/usr/bin/kdh-bedside
	$(INSTALL) -D -m 0755 \
		$(@D)/firmware-examples/bedside-service/target/$(RUSTC_TARGET_NAME)/release/kdh-bedside-client \
		$(TARGET_DIR)/usr/bin/kdh-bedside-client
endef

define KDH_BEDSIDE_INSTALL_INIT_SYSTEMD
	$(INSTALL) -D -m 0644 \
		$(@D)/firmware-examples/bedside-service/kdh-bedside.service \
		$(TARGET_DIR)/usr/lib/systemd/system/kdh-bedside.service
endef

define KDH_BEDSIDE_USERS
	- -1 kdh -1 * - - - kdh-bedside socket
endef

$(eval $(generic-package))
