/* SPDX-License-Identifier: GPL-2.0 */
/*
 * What Rust cannot reach: functions that are inline or macros in the kernel's headers, and the few
 * places where kernel versions differ in more than a type. Each says which it is.
 */
#ifndef RPRAMFS_GLUE_H
#define RPRAMFS_GLUE_H

#include <linux/fs.h>
#include <linux/mm.h>
#include <linux/rwsem.h>
#include <linux/workqueue.h>

struct dax_device;
struct iov_iter;
struct vm_area_desc;

/* A hint: this_cpu is a macro. */
unsigned int rpramfs_cpu(void);

/* Inodes: alloc_inode_sb, kmem_cache_create, init_rwsem and the lock classes are macros. */
int rpramfs_inodes_init(void);
void rpramfs_inodes_exit(void);
struct inode *rpramfs_alloc_inode(struct super_block *sb);
void rpramfs_free_inode(struct inode *inode);
struct rw_semaphore *rpramfs_meta(struct inode *inode);
u64 *rpramfs_remembered(struct inode *inode);
void rpramfs_meta_of_dir(struct inode *inode);
void rpramfs_meta_lock(struct inode *inode, unsigned int nesting);

/* Inode fields behind inline accessors, or of types that differ between versions. */
bool rpramfs_inode_is_new(struct inode *inode);
void rpramfs_set_owner(struct inode *inode, u32 uid, u32 gid);
void rpramfs_set_times(struct inode *inode, s64 atime, s64 mtime, s64 ctime);
s64 rpramfs_atime(const struct inode *inode);
s64 rpramfs_mtime(const struct inode *inode);
s64 rpramfs_ctime(const struct inode *inode);
loff_t rpramfs_size(const struct inode *inode);
void rpramfs_set_size(struct inode *inode, loff_t size);
bool rpramfs_mapping_empty(struct inode *inode);
void rpramfs_set_mapping(struct inode *inode, const struct address_space_operations *ops);
void rpramfs_new_owner(struct mnt_idmap *idmap, const struct inode *dir, u32 *uid, u32 *gid);
void rpramfs_update_times(struct inode *inode, bool access);

/* Locks that are inline. */
void rpramfs_inode_lock(struct inode *inode);
void rpramfs_inode_unlock(struct inode *inode);
void rpramfs_invalidate_lock(struct inode *inode);
void rpramfs_invalidate_unlock(struct inode *inode);
void rpramfs_invalidate_lock_shared(struct inode *inode);
void rpramfs_invalidate_unlock_shared(struct inode *inode);
void rpramfs_sb_start_pagefault(struct super_block *sb);
void rpramfs_sb_end_pagefault(struct super_block *sb);
void rpramfs_sb_start_write(struct super_block *sb);
void rpramfs_sb_end_write(struct super_block *sb);
void rpramfs_sb_start_intwrite(struct super_block *sb);
void rpramfs_sb_end_intwrite(struct super_block *sb);
int rpramfs_want_write(struct file *file);
void rpramfs_drop_write(struct file *file);
struct mutex *rpramfs_locks_new(unsigned int n);
/* Macros where the kernel watches over locks. */
void rpramfs_lock(struct mutex *lock);
bool rpramfs_trylock(struct mutex *lock);

/* In a long piece of work: lets others run. False if this task is to end. Macros. */
bool rpramfs_go_on(void);

/* Waits until nobody has pinned pages of the range; the invalidate lock is held, and let go while
 * waiting: a callback of the kernel's that is a plain C function. */
int rpramfs_break_layout(struct inode *inode, loff_t start, loff_t end);

/* What the clock says to times of files: the VFS's own has a floor that the coarse clock may lag behind, and
 * needs a superblock, which may be null. */
s64 rpramfs_now(const struct super_block *sb);

/* Mappings may not store any more without a fault, which notes the time and waits where the mount is frozen:
 * of a range of a file; of all files, when a freeze is under way. The writeback_control and the list of inodes
 * are C's. */
int rpramfs_clean(struct inode *inode, struct dax_device *dax, loff_t start, loff_t end);
int rpramfs_clean_before_freeze(struct super_block *sb, struct dax_device *dax);

/* Copying without faults: pagefault_disable is inline. How many bytes came through. */
size_t rpramfs_copy_to_iter(const void *from, size_t n, struct iov_iter *iter);
size_t rpramfs_copy_from_iter(void *to, size_t n, struct iov_iter *iter);
size_t rpramfs_zero_iter(size_t n, struct iov_iter *iter);
/* How many bytes could not be read: copy_mc_to_kernel is a macro where memory errors are not recovered. */
unsigned long rpramfs_copy_checked(void *to, const void *from, size_t n);

/* Page frames that have failed: an XArray is set up by macros. The first of a range; ULONG_MAX: none. */
int rpramfs_frame_failed(unsigned long frame);
unsigned long rpramfs_first_failed(unsigned long first, unsigned long last);
/* Takes one out of all mappings, and tells who is to know: a folio's page cannot be named without what is inline.
 * Not once its filesystem has left, which waits for those under way. */
int rpramfs_take_away(unsigned long frame, int flags, const bool *left);
void rpramfs_leave_files(bool *left);
size_t rpramfs_iter_count(const struct iov_iter *iter);

/* Directories, dentries, files: inline. */
bool rpramfs_emit_dots(struct file *file, struct dir_context *ctx);
bool rpramfs_emit(struct dir_context *ctx, const char *name, int len, u64 ino, unsigned int mode);
void rpramfs_file_accessed(struct file *file);
void rpramfs_may_odirect(struct file *file);
struct dentry *rpramfs_dentry(struct file *file);
int rpramfs_finish_open(struct file *file);
void rpramfs_link_on_free(struct delayed_call *done, void *link);
struct dentry *rpramfs_dget(struct dentry *dentry);
void *rpramfs_err_ptr(long error);
long rpramfs_ptr_err(const void *p);

/* Inline too. Device numbers are stored as stat(2) shows them. */
u64 rpramfs_stored_dev(dev_t dev);
dev_t rpramfs_used_dev(u64 dev);
bool rpramfs_is_owner(struct file *file);
bool rpramfs_signal_pending(void);
unsigned long rpramfs_copy_from_user(void *to, unsigned long from, size_t n);
unsigned long rpramfs_copy_to_user(unsigned long to, const void *from, size_t n);

/* Owners and lists: kuid_t and kgid_t are made by inline functions, posix_acl_dup is one. */
void rpramfs_change_owner(struct mnt_idmap *idmap, const struct inode *inode,
			  const struct iattr *change, u32 *uid, u32 *gid);
void rpramfs_acl_get(struct posix_acl *acl);
void rpramfs_acl_put(struct posix_acl *acl);
void *rpramfs_acl_to_xattr(const struct posix_acl *acl, size_t *len);

/* Another region, or another kind of filesystem: inline. */
ssize_t rpramfs_splice_copy(struct file *from, loff_t from_at, struct file *to, loff_t to_at,
			    size_t len);

/* Mapping: flags of a vm_area_desc differ between versions. */
void rpramfs_want_huge(struct vm_area_desc *desc);
bool rpramfs_fault_writes(const struct vm_fault *vmf);
struct file *rpramfs_fault_file(const struct vm_fault *vmf);

/* Work: INIT_WORK and the queues are macros. */
void rpramfs_work_init(struct work_struct *work, work_func_t run);
void rpramfs_work_queue(struct work_struct *work);

/* Who is alive: what they need is inline or in structures that only C can name. */
int rpramfs_boot_id(u8 id[16]);
bool rpramfs_task_lives(u32 pid, u64 start);

/* Ranges: macros. */
bool rpramfs_is_system_ram(u64 start, u64 len);
bool rpramfs_is_reserved(u64 start, u64 len);
void *rpramfs_peek(u64 start, u64 len);
void rpramfs_unpeek(void *p);

/* The superblock's UUID, as statfs and others show it: super_set_uuid and uuid_to_fsid are inline. */
void rpramfs_set_uuid(struct super_block *sb, const u8 uuid[16]);
__kernel_fsid_t rpramfs_fsid(const u8 uuid[16]);

#endif
