include $(sort $(wildcard $(BR2_EXTERNAL_KDH_PATH)/package/*/*.mk))
