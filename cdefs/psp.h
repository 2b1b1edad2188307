/* SPDX-License-Identifier: MIT */
/*
 * /dev/sev: the AMD secure processor, from <linux/psp-sev.h>.
 *
 * A file of its own because every structure here is packed, which cffi takes for a whole cdef.
 */

#define SEV_ISSUE_CMD 0xc0105300 /* struct sev_issue_cmd */

/* sev_issue_cmd.cmd */
#define SEV_FACTORY_RESET 0
#define SEV_PLATFORM_STATUS 1
#define SEV_PEK_GEN 2
#define SEV_PEK_CSR 3
#define SEV_PDH_GEN 4
#define SEV_PDH_CERT_EXPORT 5
#define SEV_PEK_CERT_IMPORT 6
#define SEV_GET_ID 7
#define SEV_GET_ID2 8
#define SNP_PLATFORM_STATUS 9
#define SNP_COMMIT 10
#define SNP_SET_CONFIG 11
#define SNP_VLEK_LOAD 12

/* What the firmware answers: sev_issue_cmd.error, kvm_sev_cmd.error. */
#define SEV_RET_NO_FW_CALL -1
#define SEV_RET_SUCCESS 0x0
#define SEV_RET_INVALID_PLATFORM_STATE 0x1
#define SEV_RET_INVALID_GUEST_STATE 0x2
#define SEV_RET_INAVLID_CONFIG 0x3
#define SEV_RET_INVALID_CONFIG 0x3
#define SEV_RET_INVALID_LEN 0x4
#define SEV_RET_ALREADY_OWNED 0x5
#define SEV_RET_INVALID_CERTIFICATE 0x6
#define SEV_RET_POLICY_FAILURE 0x7
#define SEV_RET_INACTIVE 0x8
#define SEV_RET_INVALID_ADDRESS 0x9
#define SEV_RET_BAD_SIGNATURE 0xa
#define SEV_RET_BAD_MEASUREMENT 0xb
#define SEV_RET_ASID_OWNED 0xc
#define SEV_RET_INVALID_ASID 0xd
#define SEV_RET_WBINVD_REQUIRED 0xe
#define SEV_RET_DFFLUSH_REQUIRED 0xf
#define SEV_RET_INVALID_GUEST 0x10
#define SEV_RET_INVALID_COMMAND 0x11
#define SEV_RET_ACTIVE 0x12
#define SEV_RET_HWSEV_RET_PLATFORM 0x13
#define SEV_RET_HWSEV_RET_UNSAFE 0x14
#define SEV_RET_UNSUPPORTED 0x15
#define SEV_RET_INVALID_PARAM 0x16
#define SEV_RET_RESOURCE_LIMIT 0x17
#define SEV_RET_SECURE_DATA_INVALID 0x18
#define SEV_RET_INVALID_PAGE_SIZE 0x19
#define SEV_RET_INVALID_PAGE_STATE 0x1a
#define SEV_RET_INVALID_MDATA_ENTRY 0x1b
#define SEV_RET_INVALID_PAGE_OWNER 0x1c
#define SEV_RET_AEAD_OFLOW 0x1d
#define SEV_RET_EXIT_RING_BUFFER 0x1f
#define SEV_RET_RMP_INIT_REQUIRED 0x20
#define SEV_RET_BAD_SVN 0x21
#define SEV_RET_BAD_VERSION 0x22
#define SEV_RET_SHUTDOWN_REQUIRED 0x23
#define SEV_RET_UPDATE_FAILED 0x24
#define SEV_RET_RESTORE_REQUIRED 0x25
#define SEV_RET_RMP_INITIALIZATION_FAILED 0x26
#define SEV_RET_INVALID_KEY 0x27
#define SEV_RET_SHUTDOWN_INCOMPLETE 0x28
#define SEV_RET_INCORRECT_BUFFER_LENGTH 0x30
#define SEV_RET_EXPAND_BUFFER_LENGTH_REQUEST 0x31
#define SEV_RET_SPDM_REQUEST 0x32
#define SEV_RET_SPDM_ERROR 0x33
#define SEV_RET_SEV_STATUS_ERR_IN_DEV_CONN 0x35
#define SEV_RET_SEV_STATUS_INVALID_DEV_CTX 0x36
#define SEV_RET_SEV_STATUS_INVALID_TDI_CTX 0x37
#define SEV_RET_SEV_STATUS_INVALID_TDI 0x38
#define SEV_RET_SEV_STATUS_RECLAIM_REQUIRED 0x39
#define SEV_RET_IN_USE 0x3a
#define SEV_RET_SEV_STATUS_INVALID_DEV_STATE 0x3b
#define SEV_RET_SEV_STATUS_INVALID_TDI_STATE 0x3c
#define SEV_RET_SEV_STATUS_DEV_CERT_CHANGED 0x3d
#define SEV_RET_SEV_STATUS_RESYNC_REQ 0x3e
#define SEV_RET_SEV_STATUS_RESPONSE_TOO_LARGE 0x3f

#define SEV_STATUS_FLAGS_CONFIG_ES 0x100

struct sev_issue_cmd {
	__u32 cmd;
	__u64 data;
	__u32 error;
};

struct sev_user_data_status {
	__u8 api_major;
	__u8 api_minor;
	__u8 state;
	__u32 flags;
	__u8 build;
	__u32 guest_count;
};

struct sev_user_data_pek_csr {
	__u64 address;
	__u32 length;
};

struct sev_user_data_pek_cert_import {
	__u64 pek_cert_address;
	__u32 pek_cert_len;
	__u64 oca_cert_address;
	__u32 oca_cert_len;
};

struct sev_user_data_pdh_cert_export {
	__u64 pdh_cert_address;
	__u32 pdh_cert_len;
	__u64 cert_chain_address;
	__u32 cert_chain_len;
};

struct sev_user_data_get_id2 {
	__u64 address;
	__u32 length;
};

struct sev_user_data_snp_status {
	__u8 api_major;
	__u8 api_minor;
	__u8 state;
	__u8 is_rmp_initialized:1;
	__u8 rsvd:7;
	__u32 build_id;
	__u32 mask_chip_id:1;
	__u32 mask_chip_key:1;
	__u32 vlek_en:1;
	__u32 feature_info:1;
	__u32 rapl_dis:1;
	__u32 ciphertext_hiding_cap:1;
	__u32 ciphertext_hiding_en:1;
	__u32 rsvd1:25;
	__u32 guest_count;
	__u64 current_tcb_version;
	__u64 reported_tcb_version;
};

struct sev_user_data_snp_config {
	__u64 reported_tcb;
	__u32 mask_chip_id:1;
	__u32 mask_chip_key:1;
	__u32 rsvd:30;
	__u8 rsvd1[52];
};

struct sev_user_data_snp_vlek_load {
	__u32 len;
	__u8 vlek_wrapped_version;
	__u8 rsvd[3];
	__u64 vlek_wrapped_address;
};

struct sev_user_data_snp_wrapped_vlek_hashstick {
	__u8 data[432];
};
