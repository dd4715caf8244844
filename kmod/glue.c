// SPDX-License-Identifier: GPL-2.0
#include "glue.h"

#include <linux/dax.h>
#include <linux/file.h>
#include <linux/io.h>
#include <linux/ioport.h>
#include <linux/mount.h>
#include <linux/pagemap.h>
#include <linux/pid_namespace.h>
#include <linux/posix_acl.h>
#include <linux/posix_acl_xattr.h>
#include <linux/kdev_t.h>
#include <linux/sched.h>
#include <linux/sched/signal.h>
#include <linux/sched/task.h>
#include <linux/slab.h>
#include <linux/splice.h>
#include <linux/statfs.h>
#include <linux/uaccess.h>
#include <linux/uio.h>
#include <linux/uuid.h>
#include <linux/version.h>
#include <linux/writeback.h>

unsigned int rpramfs_cpu(void)
{
	return raw_smp_processor_id();
}

/* An inode with the lock that the core asks its callers for. */
struct rpramfs_inode {
	struct rw_semaphore meta;
	/* Rust's: see vfs/remembered.rs. */
	u64 remembered[4];
	struct inode vfs;
};

static struct kmem_cache *inodes;
/* Directories and files are locked at once, directories first. */
static struct lock_class_key meta_of_dirs;

static void init_once(void *p)
{
	struct rpramfs_inode *i = p;

	inode_init_once(&i->vfs);
}

int rpramfs_inodes_init(void)
{
	inodes = kmem_cache_create("rpramfs_inode", sizeof(struct rpramfs_inode), 0,
				   SLAB_RECLAIM_ACCOUNT | SLAB_ACCOUNT, init_once);
	return inodes ? 0 : -ENOMEM;
}

void rpramfs_inodes_exit(void)
{
	/* Inodes are freed after a grace period. */
	rcu_barrier();
	kmem_cache_destroy(inodes);
}

struct inode *rpramfs_alloc_inode(struct super_block *sb)
{
	struct rpramfs_inode *i = alloc_inode_sb(sb, inodes, GFP_KERNEL);

	if (!i)
		return NULL;
	init_rwsem(&i->meta);
	memset(i->remembered, 0, sizeof(i->remembered));
	return &i->vfs;
}

void rpramfs_free_inode(struct inode *inode)
{
	kmem_cache_free(inodes, container_of(inode, struct rpramfs_inode, vfs));
}

struct rw_semaphore *rpramfs_meta(struct inode *inode)
{
	return &container_of(inode, struct rpramfs_inode, vfs)->meta;
}

u64 *rpramfs_remembered(struct inode *inode)
{
	return container_of(inode, struct rpramfs_inode, vfs)->remembered;
}

void rpramfs_meta_of_dir(struct inode *inode)
{
	lockdep_set_class(rpramfs_meta(inode), &meta_of_dirs);
}

void rpramfs_meta_lock(struct inode *inode, unsigned int nesting)
{
	down_write_nested(rpramfs_meta(inode), nesting);
}

bool rpramfs_inode_is_new(struct inode *inode)
{
	return inode_state_read_once(inode) & I_NEW;
}

void rpramfs_set_owner(struct inode *inode, u32 uid, u32 gid)
{
	i_uid_write(inode, uid);
	i_gid_write(inode, gid);
}

void rpramfs_set_times(struct inode *inode, s64 atime, s64 mtime, s64 ctime)
{
	inode_set_atime_to_ts(inode, ns_to_timespec64(atime));
	inode_set_mtime_to_ts(inode, ns_to_timespec64(mtime));
	inode_set_ctime_to_ts(inode, ns_to_timespec64(ctime));
}

static s64 ns(struct timespec64 t)
{
	return timespec64_to_ns(&t);
}

s64 rpramfs_atime(const struct inode *inode)
{
	return ns(inode_get_atime(inode));
}

s64 rpramfs_mtime(const struct inode *inode)
{
	return ns(inode_get_mtime(inode));
}

s64 rpramfs_ctime(const struct inode *inode)
{
	return ns(inode_get_ctime(inode));
}

loff_t rpramfs_size(const struct inode *inode)
{
	return i_size_read(inode);
}

void rpramfs_set_size(struct inode *inode, loff_t size)
{
	i_size_write(inode, size);
}

bool rpramfs_mapping_empty(struct inode *inode)
{
	return mapping_empty(inode->i_mapping);
}

void rpramfs_set_mapping(struct inode *inode, const struct address_space_operations *ops)
{
	inode->i_mapping->a_ops = ops;
	inode->i_flags |= S_DAX;
}

void rpramfs_new_owner(struct mnt_idmap *idmap, const struct inode *dir, u32 *uid, u32 *gid)
{
	struct user_namespace *ns = dir->i_sb->s_user_ns;

	*uid = from_kuid(ns, mapped_fsuid(idmap, ns));
	*gid = from_kgid(ns, mapped_fsgid(idmap, ns));
}

/* The time of an access, or of a change, as the clock has it. */
void rpramfs_update_times(struct inode *inode, bool access)
{
	if (access)
		inode_set_atime_to_ts(inode, current_time(inode));
	else
		inode_set_mtime_to_ts(inode, inode_set_ctime_current(inode));
}

void rpramfs_inode_lock(struct inode *inode)
{
	inode_lock(inode);
}

void rpramfs_inode_unlock(struct inode *inode)
{
	inode_unlock(inode);
}

void rpramfs_invalidate_lock(struct inode *inode)
{
	filemap_invalidate_lock(inode->i_mapping);
}

void rpramfs_invalidate_unlock(struct inode *inode)
{
	filemap_invalidate_unlock(inode->i_mapping);
}

void rpramfs_invalidate_lock_shared(struct inode *inode)
{
	filemap_invalidate_lock_shared(inode->i_mapping);
}

void rpramfs_invalidate_unlock_shared(struct inode *inode)
{
	filemap_invalidate_unlock_shared(inode->i_mapping);
}

void rpramfs_sb_start_pagefault(struct super_block *sb)
{
	sb_start_pagefault(sb);
}

void rpramfs_sb_end_pagefault(struct super_block *sb)
{
	sb_end_pagefault(sb);
}

void rpramfs_sb_start_write(struct super_block *sb)
{
	sb_start_write(sb);
}

void rpramfs_sb_end_write(struct super_block *sb)
{
	sb_end_write(sb);
}

void rpramfs_sb_start_intwrite(struct super_block *sb)
{
	sb_start_intwrite(sb);
}

void rpramfs_sb_end_intwrite(struct super_block *sb)
{
	sb_end_intwrite(sb);
}

int rpramfs_want_write(struct file *file)
{
	return mnt_want_write_file(file);
}

void rpramfs_drop_write(struct file *file)
{
	mnt_drop_write_file(file);
}

/* As many as fs_core::LOCKS. The core takes them in ascending order: to lockdep each is its own. */
#define MOST_LOCKS 192
static struct lock_class_key lock_keys[MOST_LOCKS];

struct mutex *rpramfs_locks_new(unsigned int n)
{
	struct mutex *locks;
	unsigned int i;

	if (n > MOST_LOCKS)
		return NULL;
	locks = kvmalloc_array(n, sizeof(*locks), GFP_KERNEL);
	if (!locks)
		return NULL;
	for (i = 0; i < n; i++) {
		mutex_init(&locks[i]);
		lockdep_set_class(&locks[i], &lock_keys[i]);
	}
	return locks;
}

void rpramfs_lock(struct mutex *lock)
{
	mutex_lock(lock);
}

bool rpramfs_trylock(struct mutex *lock)
{
	return mutex_trylock(lock);
}

bool rpramfs_go_on(void)
{
	cond_resched();
	return !fatal_signal_pending(current);
}

static void wait_for_page(struct inode *inode)
{
	filemap_invalidate_unlock(inode->i_mapping);
	schedule();
	filemap_invalidate_lock(inode->i_mapping);
}

int rpramfs_break_layout(struct inode *inode, loff_t start, loff_t end)
{
	/*
	 * An entry goes whole, whatever is asked for: so all of it is unmapped, and waited for. What is
	 * still wanted of it is faulted in again.
	 */
	start = round_down(start, PMD_SIZE);
	if (end > LLONG_MAX - PMD_SIZE)
		end = LLONG_MAX;
	else
		end = round_up(end, PMD_SIZE) - 1;
	return dax_break_layout(inode, start, end, wait_for_page);
}

s64 rpramfs_now(const struct super_block *sb)
{
	struct dentry *root = sb ? READ_ONCE(sb->s_root) : NULL;
	struct timespec64 now;

	if (root)
		now = current_time(d_inode(root));
	else
		ktime_get_coarse_real_ts64(&now);
	return timespec64_to_ns(&now);
}

int rpramfs_clean(struct inode *inode, struct dax_device *dax, loff_t start, loff_t end)
{
	struct writeback_control wbc = {
		.sync_mode = WB_SYNC_ALL,
		.nr_to_write = LONG_MAX,
		.range_start = start,
		.range_end = end,
	};

	if (!IS_DAX(inode) || !mapping_tagged(inode->i_mapping, PAGECACHE_TAG_DIRTY))
		return 0;
	return dax_writeback_mapping_range(inode->i_mapping, dax, &wbc);
}

int rpramfs_clean_before_freeze(struct super_block *sb, struct dax_device *dax)
{
	struct inode *inode, *last = NULL;
	int error = 0;

	/*
	 * Not in freeze_fs: the last who has an unlinked file may be we, and then its pages are given back,
	 * which waits for the thaw there.
	 */
	if (sb->s_writers.frozen != SB_FREEZE_PAGEFAULT)
		return 0;
	spin_lock(&sb->s_inode_list_lock);
	list_for_each_entry(inode, &sb->s_inodes, i_sb_list) {
		if (!mapping_tagged(inode->i_mapping, PAGECACHE_TAG_DIRTY) || !igrab(inode))
			continue;
		/* The one that is held keeps its place in the list. */
		spin_unlock(&sb->s_inode_list_lock);
		iput(last);
		last = inode;
		error = rpramfs_clean(inode, dax, 0, LLONG_MAX);
		cond_resched();
		spin_lock(&sb->s_inode_list_lock);
		if (error)
			break;
	}
	spin_unlock(&sb->s_inode_list_lock);
	iput(last);
	return error;
}

size_t rpramfs_copy_to_iter(const void *from, size_t n, struct iov_iter *iter)
{
	size_t done;

	pagefault_disable();
	/* Memory that has gone bad ends the copy, not the kernel. */
	done = _copy_mc_to_iter(from, n, iter);
	pagefault_enable();
	return done;
}

size_t rpramfs_copy_from_iter(void *to, size_t n, struct iov_iter *iter)
{
	size_t done;

	pagefault_disable();
	/*
	 * Not copy_from_iter(): hardened usercopy takes a copy over the end of a folio for an overflow,
	 * and pages of the region are folios of 2 MiB where they are mapped so.
	 */
	done = _copy_from_iter(to, n, iter);
	pagefault_enable();
	return done;
}

size_t rpramfs_zero_iter(size_t n, struct iov_iter *iter)
{
	size_t done;

	pagefault_disable();
	done = iov_iter_zero(n, iter);
	pagefault_enable();
	return done;
}

unsigned long rpramfs_copy_checked(void *to, const void *from, size_t n)
{
	return copy_mc_to_kernel(to, from, n);
}

static DEFINE_XARRAY(failed);

int rpramfs_frame_failed(unsigned long frame)
{
	static atomic_t pinned = ATOMIC_INIT(0);

	/* The kernel's own mapping of it may be gone, and stays so: nobody may come who does not know. */
	if (!atomic_xchg(&pinned, 1))
		__module_get(THIS_MODULE);
	/* Found while reading, with locks held that reclaim of memory may want. */
	return xa_err(xa_store(&failed, frame, xa_mk_value(0), GFP_ATOMIC));
}

unsigned long rpramfs_first_failed(unsigned long first, unsigned long last)
{
	return xa_find(&failed, &first, last, XA_PRESENT) ? first : ULONG_MAX;
}

/* While one is taken out of a file's mappings, that file is kept: not while its filesystem goes. */
static DECLARE_RWSEM(files);

void rpramfs_leave_files(bool *left)
{
	down_write(&files);
	*left = true;
	up_write(&files);
}

int rpramfs_take_away(unsigned long frame, int flags, const bool *left)
{
	int error = 0;
#ifdef CONFIG_MEMORY_FAILURE
	struct folio *folio = pfn_folio(frame);
	struct address_space *mapping;
	struct inode *inode = NULL;
	pgoff_t index = 0;

	down_read(&files);
	rcu_read_lock();
	mapping = *left ? NULL : READ_ONCE(folio->mapping);
	if (mapping) {
		index = folio->index + (frame - folio_pfn(folio));
		inode = igrab(mapping->host);
	}
	rcu_read_unlock();
	if (!inode)
		goto out;
	/*
	 * The kernel's own way for a page that it knows no more of looks for the first page of the folio.
	 * Whoever is not told now meets the page again in a fault.
	 */
	error = mf_dax_kill_procs(inode->i_mapping, index, 1, flags);
	unmap_mapping_range(inode->i_mapping, (loff_t)index << PAGE_SHIFT, PAGE_SIZE, 0);
	iput(inode);
out:
	up_read(&files);
#endif
	return error;
}

size_t rpramfs_iter_count(const struct iov_iter *iter)
{
	return iov_iter_count(iter);
}

bool rpramfs_emit_dots(struct file *file, struct dir_context *ctx)
{
	return dir_emit_dots(file, ctx);
}

bool rpramfs_emit(struct dir_context *ctx, const char *name, int len, u64 ino, unsigned int mode)
{
	return dir_emit(ctx, name, len, ino, fs_umode_to_dtype(mode));
}

void rpramfs_file_accessed(struct file *file)
{
	file_accessed(file);
}

void rpramfs_may_odirect(struct file *file)
{
	file->f_mode |= FMODE_CAN_ODIRECT;
}

struct dentry *rpramfs_dentry(struct file *file)
{
	return file->f_path.dentry;
}

int rpramfs_finish_open(struct file *file)
{
	return finish_open_simple(file, 0);
}

void rpramfs_link_on_free(struct delayed_call *done, void *link)
{
	set_delayed_call(done, kfree_link, link);
}

struct dentry *rpramfs_dget(struct dentry *dentry)
{
	return dget(dentry);
}

void *rpramfs_err_ptr(long error)
{
	return ERR_PTR(error);
}

long rpramfs_ptr_err(const void *p)
{
	return PTR_ERR_OR_ZERO(p);
}

u64 rpramfs_stored_dev(dev_t dev)
{
	return huge_encode_dev(dev);
}

dev_t rpramfs_used_dev(u64 dev)
{
	return huge_decode_dev(dev);
}

bool rpramfs_is_owner(struct file *file)
{
	return inode_owner_or_capable(file_mnt_idmap(file), file_inode(file));
}

bool rpramfs_signal_pending(void)
{
	return signal_pending(current);
}

unsigned long rpramfs_copy_from_user(void *to, unsigned long from, size_t n)
{
	return copy_from_user(to, (const void __user *)from, n);
}

unsigned long rpramfs_copy_to_user(unsigned long to, const void *from, size_t n)
{
	return copy_to_user((void __user *)to, from, n);
}

void rpramfs_change_owner(struct mnt_idmap *idmap, const struct inode *inode,
			  const struct iattr *change, u32 *uid, u32 *gid)
{
	struct user_namespace *ns = inode->i_sb->s_user_ns;

	if (change->ia_valid & ATTR_UID)
		*uid = from_kuid(ns, from_vfsuid(idmap, ns, change->ia_vfsuid));
	if (change->ia_valid & ATTR_GID)
		*gid = from_kgid(ns, from_vfsgid(idmap, ns, change->ia_vfsgid));
}

void rpramfs_acl_get(struct posix_acl *acl)
{
	posix_acl_dup(acl);
}

void rpramfs_acl_put(struct posix_acl *acl)
{
	posix_acl_release(acl);
}

void *rpramfs_acl_to_xattr(const struct posix_acl *acl, size_t *len)
{
	return posix_acl_to_xattr(&init_user_ns, acl, len, GFP_KERNEL);
}

ssize_t rpramfs_splice_copy(struct file *from, loff_t from_at, struct file *to, loff_t to_at,
			    size_t len)
{
	return splice_copy_file_range(from, from_at, to, to_at, len);
}

void rpramfs_want_huge(struct vm_area_desc *desc)
{
	vma_desc_set_flags(desc, VMA_HUGEPAGE_BIT);
}

bool rpramfs_fault_writes(const struct vm_fault *vmf)
{
	return (vmf->flags & FAULT_FLAG_WRITE) && (vmf->vma->vm_flags & VM_SHARED);
}

struct file *rpramfs_fault_file(const struct vm_fault *vmf)
{
	return vmf->vma->vm_file;
}

void rpramfs_work_init(struct work_struct *work, work_func_t run)
{
	INIT_WORK(work, run);
}

void rpramfs_work_queue(struct work_struct *work)
{
	queue_work(system_dfl_wq, work);
}

/* /proc has the only copy of it that others can see. */
int rpramfs_boot_id(u8 id[16])
{
	struct file *file;
	char text[UUID_STRING_LEN];
	loff_t at = 0;
	ssize_t n;
	uuid_t uuid;

	file = filp_open("/proc/sys/kernel/random/boot_id", O_RDONLY, 0);
	if (IS_ERR(file))
		return PTR_ERR(file);
	n = kernel_read(file, text, sizeof(text), &at);
	fput(file);
	if (n != sizeof(text) || uuid_parse(text, &uuid))
		return -EIO;
	export_uuid(id, &uuid);
	return 0;
}

/* Is there such a process, begun at that clock tick (of USER_HZ)? 0 is any tick. */
bool rpramfs_task_lives(u32 pid, u64 start)
{
	struct task_struct *task;
	bool lives = false;

	rcu_read_lock();
	task = pid_task(find_pid_ns(pid, &init_pid_ns), PIDTYPE_PID);
	if (task)
		lives = !start ||
			div_u64(task->start_boottime, NSEC_PER_SEC / USER_HZ) == start;
	rcu_read_unlock();
	return lives;
}

bool rpramfs_is_system_ram(u64 start, u64 len)
{
	return region_intersects(start, len, IORESOURCE_SYSTEM_RAM, IORES_DESC_NONE) !=
	       REGION_DISJOINT;
}

/* Memory that the firmware or the command line keeps from the kernel, and nothing but that. */
bool rpramfs_is_reserved(u64 start, u64 len)
{
	return region_intersects(start, len, IORESOURCE_MEM, IORES_DESC_RESERVED) ==
		       REGION_INTERSECTS ||
	       region_intersects(start, len, IORESOURCE_MEM,
				 IORES_DESC_PERSISTENT_MEMORY_LEGACY) == REGION_INTERSECTS ||
	       region_intersects(start, len, IORESOURCE_MEM, IORES_DESC_SOFT_RESERVED) ==
		       REGION_INTERSECTS;
}

void *rpramfs_peek(u64 start, u64 len)
{
	return memremap(start, len, MEMREMAP_WB);
}

void rpramfs_unpeek(void *p)
{
	memunmap(p);
}

void rpramfs_set_uuid(struct super_block *sb, const u8 uuid[16])
{
	super_set_uuid(sb, uuid, 16);
}

__kernel_fsid_t rpramfs_fsid(const u8 uuid[16])
{
	return uuid_to_fsid((u8 *)uuid);
}
