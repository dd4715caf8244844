/* SPDX-License-Identifier: GPL-2.0 */
/* What bindgen reads; `parameters` says what of it. */

#include <linux/backing-dev.h>
#include <linux/blkdev.h>
#include <linux/capability.h>
#include <linux/crc32.h>
#include <linux/cred.h>
#include <linux/dax.h>
#include <linux/dcache.h>
#include <linux/exportfs.h>
#include <linux/falloc.h>
#include <linux/fiemap.h>
#include <linux/file.h>
#include <linux/filelock.h>
#include <linux/fileattr.h>
#include <linux/fs.h>
#include <linux/fs_context.h>
#include <linux/fs_parser.h>
#include <linux/fsnotify.h>
#include <linux/highmem.h>
#include <linux/huge_mm.h>
#include <linux/iomap.h>
#include <linux/ioport.h>
#include <linux/iversion.h>
#include <linux/magic.h>
#include <linux/memremap.h>
#include <linux/mm.h>
#include <linux/mm_types.h>
#include <linux/mnt_idmapping.h>
#include <linux/mount.h>
#include <linux/namei.h>
#include <linux/pagemap.h>
#include <linux/posix_acl.h>
#include <linux/posix_acl_xattr.h>
#include <linux/random.h>
#include <linux/security.h>
#include <linux/seq_file.h>
#include <linux/slab.h>
#include <linux/splice.h>
#include <linux/stat.h>
#include <linux/statfs.h>
#include <linux/timekeeping.h>
#include <linux/uaccess.h>
#include <linux/uio.h>
#include <linux/vmalloc.h>
#include <linux/writeback.h>
#include <linux/xattr.h>
#include <uapi/linux/mount.h>

#include "../glue.h"

/*
 * Constants that bindgen cannot work out from their macros: casts and BIT(). The prefix goes when
 * the bindings are made.
 */
#define CONSTANT(name) static const typeof(name) CONSTANT_##name = (name)

CONSTANT(SB_RDONLY);
CONSTANT(SB_NOSUID);
CONSTANT(SB_NODEV);
CONSTANT(SB_NOEXEC);
CONSTANT(SB_SYNCHRONOUS);
CONSTANT(SB_NOATIME);
CONSTANT(SB_SILENT);
CONSTANT(SB_POSIXACL);
CONSTANT(SB_KERNMOUNT);
CONSTANT(SB_I_VERSION);
CONSTANT(SB_LAZYTIME);
CONSTANT(SB_NOSEC);
CONSTANT(SB_ACTIVE);

CONSTANT(FMODE_READ);
CONSTANT(FMODE_WRITE);
CONSTANT(FMODE_NOWAIT);
CONSTANT(FMODE_CAN_ODIRECT);
CONSTANT(FMODE_LSEEK);
CONSTANT(FMODE_PREAD);
CONSTANT(FMODE_PWRITE);

CONSTANT(FOP_MMAP_SYNC);
CONSTANT(FOP_BUFFER_RASYNC);
CONSTANT(FOP_BUFFER_WASYNC);

CONSTANT(IOCB_HIPRI);
CONSTANT(IOCB_DSYNC);
CONSTANT(IOCB_SYNC);
CONSTANT(IOCB_NOWAIT);
CONSTANT(IOCB_APPEND);

CONSTANT(GFP_KERNEL);
CONSTANT(GFP_NOFS);
CONSTANT(GFP_ATOMIC);
CONSTANT(GFP_KERNEL_ACCOUNT);
CONSTANT(__GFP_ZERO);
CONSTANT(__GFP_NOWARN);

CONSTANT(SLAB_RECLAIM_ACCOUNT);
CONSTANT(SLAB_ACCOUNT);
CONSTANT(SLAB_HWCACHE_ALIGN);

CONSTANT(VM_READ);
CONSTANT(VM_WRITE);
CONSTANT(VM_EXEC);
CONSTANT(VM_SHARED);
CONSTANT(VM_MAYWRITE);
CONSTANT(VM_MIXEDMAP);
CONSTANT(VM_HUGEPAGE);
CONSTANT(VM_NOHUGEPAGE);
CONSTANT(VM_PFNMAP);

CONSTANT(CAP_SYS_ADMIN);

CONSTANT(LOOKUP_RCU);
CONSTANT(MAX_LFS_FILESIZE);
