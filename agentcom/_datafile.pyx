# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""Quick proof that a data file of LMDB 0.9 is sound: pages, trees, free list, and the checksum of each record.

It only ever says yes or "not sure". Yes means what `lmdb.verify` and a walk over all records with `record.unpack` would
have found in order, in a fortieth of their time; whatever is unusual, damaged or just not known here is for those two,
which also have the words for it. The file is read as plain bytes and never mapped, every offset is compared with the
page that it lies in, so that no content can do any harm.
"""

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free, malloc
from libc.string cimport memcmp, memcpy
from posix.types cimport off_t
from posix.unistd cimport pread

cdef enum:
    HEADER = 16  # of a page; where the meta page's record begins, too
    NODE_HEADER = 8
    DATABASE = 48  # a database's record
    METAS = 2
    DEPTH_MAX = 32
    NAMES_MAX = 64
    NAME_MAX = 32
    BRANCH = 0x01
    LEAF = 0x02
    OVERFLOW = 0x04
    META = 0x08
    BIG = 0x01
    SUB = 0x02
    DUPLICATES = 0x04 | 0x10 | 0x20 | 0x40  # flags of databases with several values under a key: we make none
    LAST_KEY_MAX = 1024  # longer keys than LMDB's 511 bytes are not known here

cdef uint32_t MAGIC = 0xBEEFC0DE
cdef uint64_t NO_PAGE = <uint64_t>-1
cdef uint64_t SLACK_PAGES = 1 << 20  # that a meta page may count beyond the file, as in lmdb.verify
include "_checksum.pxi"


cdef inline uint16_t u16(const uint8_t *at) noexcept nogil:
    cdef uint16_t value
    memcpy(&value, at, 2)
    return value


cdef inline uint32_t u32(const uint8_t *at) noexcept nogil:
    cdef uint32_t value
    memcpy(&value, at, 4)
    return value


cdef inline uint64_t u64(const uint8_t *at) noexcept nogil:
    cdef uint64_t value
    memcpy(&value, at, 8)
    return value


cdef struct Database:
    uint32_t pad
    uint16_t flags
    uint16_t depth
    uint64_t branches
    uint64_t leaves
    uint64_t overflows
    uint64_t entries
    uint64_t root


cdef struct Name:
    uint8_t text[NAME_MAX]
    size_t size
    uint32_t seed
    uint8_t version


cdef struct Tree:
    # What a walk of one tree has found so far, and what its records are checked by.
    bint is_free
    bint is_main
    uint32_t seed
    uint8_t version
    uint64_t branches
    uint64_t leaves
    uint64_t overflows
    uint64_t entries
    uint64_t depth
    bint has_last
    size_t last_size
    uint8_t last[LAST_KEY_MAX]


cdef struct File:
    int file
    uint64_t size
    uint32_t page_size
    uint64_t pages  # that the newest meta page counts
    uint64_t transaction
    uint8_t *live
    uint8_t *unused
    uint8_t *stack  # a page for each level of a tree
    int names
    Name name[NAMES_MAX]


cdef void read_database(Database *into, const uint8_t *at) noexcept nogil:
    into.pad, into.flags, into.depth = u32(at), u16(at + 4), u16(at + 6)
    into.branches, into.leaves, into.overflows = u64(at + 8), u64(at + 16), u64(at + 24)
    into.entries, into.root = u64(at + 32), u64(at + 40)


cdef bint read_at(File *one, uint64_t offset, uint64_t size, uint8_t *into) noexcept nogil:
    cdef Py_ssize_t got
    if offset + size > one.size:
        return False
    while size:
        got = pread(one.file, into, size, <off_t>offset)
        if got <= 0:
            return False
        into += got
        offset += got
        size -= got
    return True


cdef bint mark(File *one, uint64_t page) noexcept nogil:
    """The page is reached, for the first time."""
    if page < METAS or page >= one.pages or one.live[page]:
        return False
    one.live[page] = 1
    return True


cdef bint is_meta(const uint8_t *page, uint64_t number) noexcept nogil:
    cdef uint64_t transaction = u64(page + 144)
    return (
        u64(page) == number and (u16(page + 10) & META) != 0 and u32(page + 16) == MAGIC and u32(page + 20) == 1
        and (not transaction or (transaction & 1) == number)
    )


cdef bint read_metas(File *one, Database *of_free, Database *of_main) noexcept nogil:
    """Both meta pages, and which of them counts."""
    cdef uint8_t first[160]
    cdef uint8_t second[160]
    cdef uint8_t *newest
    cdef int at
    if not read_at(one, 0, 160, first):
        return False
    for at in range(0, HEADER, 4):
        if u32(first + at) == MAGIC:
            return False
    one.page_size = u32(first + 40)
    if one.page_size < 256 or one.page_size > 0x8000 or one.page_size & (one.page_size - 1):
        return False
    if not read_at(one, one.page_size, 160, second) or u32(second + 40) != one.page_size:
        return False
    if not is_meta(first, 0) or not is_meta(second, 1):
        return False
    newest = &second[0] if u64(first + 144) < u64(second + 144) else &first[0]
    one.transaction = u64(newest + 144)
    one.pages = u64(newest + 136) + 1
    if one.pages < METAS or one.pages > one.size // one.page_size + SLACK_PAGES:
        return False
    read_database(of_free, newest + 40)
    read_database(of_main, newest + 88)
    # The free list's record carries flags of the file and the size of a page beside its own.
    return not of_free.flags & DUPLICATES and not of_main.flags and of_main.pad <= one.page_size - HEADER


cdef bint walk_tree(File *one, Tree *tree, Database *as_told) noexcept nogil:
    if as_told.root == NO_PAGE:
        return not (as_told.branches or as_told.leaves or as_told.overflows or as_told.entries or as_told.depth)
    if as_told.depth > DEPTH_MAX or not walk_page(one, tree, as_told.root, 1):
        return False
    return (
        tree.branches == as_told.branches and tree.leaves == as_told.leaves and tree.entries == as_told.entries
        and tree.overflows == as_told.overflows and tree.depth == as_told.depth
    )


cdef bint walk_page(File *one, Tree *tree, uint64_t number, uint64_t depth) noexcept nogil:
    cdef uint8_t *page = one.stack + (depth - 1) * one.page_size
    cdef uint32_t lower, upper
    if not mark(one, number) or not read_at(one, number * one.page_size, one.page_size, page):
        return False
    lower, upper = u16(page + 12), u16(page + 14)
    if u64(page) != number or lower < HEADER or upper > one.page_size or lower > upper:
        return False
    tree.depth = max(tree.depth, depth)
    if u16(page + 10) == LEAF:
        tree.leaves += 1
        return walk_leaf(one, tree, page, (lower - HEADER) >> 1, upper)
    if u16(page + 10) != BRANCH or depth >= DEPTH_MAX:
        return False
    tree.branches += 1
    return walk_branch(one, tree, page, (lower - HEADER) >> 1, upper, depth)


cdef inline const uint8_t *node_at(File *one, const uint8_t *page, uint32_t n, uint32_t upper) noexcept nogil:
    """The n-th node of a page, with its key inside of the page; NULL for another."""
    cdef uint32_t offset = u16(page + HEADER + 2 * n)
    if offset + NODE_HEADER > one.page_size or offset < upper:
        return NULL
    if offset + NODE_HEADER + u16(page + offset + 6) > one.page_size:
        return NULL
    return page + offset


cdef inline bint follows(
    Tree *tree, const uint8_t *key, size_t size, const uint8_t *before, size_t before_size
) noexcept nogil:
    """Whether the key comes after the other in this tree."""
    cdef int order
    if tree.is_free:
        return size == 8 and before_size == 8 and u64(key) > u64(before)
    order = memcmp(key, before, min(size, before_size))
    return order > 0 or (order == 0 and size > before_size)


cdef bint walk_branch(
    File *one, Tree *tree, const uint8_t *page, uint32_t keys, uint32_t upper, uint64_t depth
) noexcept nogil:
    cdef const uint8_t *node
    cdef const uint8_t *before = NULL
    cdef uint32_t n, size, before_size = 0
    cdef uint64_t child
    if not keys:
        return False
    for n in range(keys):
        node = node_at(one, page, n, upper)
        if node is NULL:
            return False
        size = u16(node + 6)
        if n:  # the first has no key of its own
            if not size or (tree.is_free and size != 8):
                return False
            if before is not NULL and not follows(tree, node + NODE_HEADER, size, before, before_size):
                return False
            before, before_size = node + NODE_HEADER, size
        child = u16(node) | <uint64_t>u16(node + 2) << 16 | <uint64_t>u16(node + 4) << 32
        if not walk_page(one, tree, child, depth + 1):
            return False
    return True


cdef bint walk_leaf(File *one, Tree *tree, const uint8_t *page, uint32_t keys, uint32_t upper) noexcept nogil:
    cdef const uint8_t *node
    cdef const uint8_t *key
    cdef const uint8_t *before = tree.last
    cdef const uint8_t *end = page + one.page_size
    cdef uint32_t n, size, data_size
    cdef size_t before_size = tree.last_size
    cdef bint has_before = tree.has_last
    for n in range(keys):
        node = node_at(one, page, n, upper)
        if node is NULL:
            return False
        size, key = u16(node + 6), node + NODE_HEADER
        data_size = u16(node) | <uint32_t>u16(node + 2) << 16
        if size > LAST_KEY_MAX or (tree.is_free and size != 8):
            return False
        if has_before and not follows(tree, key, size, before, before_size):
            return False
        before, before_size, has_before = key, size, True
        if not walk_value(one, tree, u16(node + 4), key, size, data_size, end):
            return False
        tree.entries += 1
    if keys:
        memcpy(tree.last, before, before_size)
        tree.last_size, tree.has_last = before_size, True
    return True


cdef bint walk_value(
    File *one, Tree *tree, uint16_t flags, const uint8_t *key, size_t key_size, uint32_t size, const uint8_t *end
) noexcept nogil:
    cdef const uint8_t *data = key + key_size
    cdef uint8_t *extent = NULL
    cdef bint is_good
    if tree.is_main:
        return flags == SUB and size == DATABASE and data + DATABASE <= end  # its tree comes when this one is done
    if flags == BIG:
        if data + 8 > end:
            return False
        extent = read_big(one, tree, u64(data), size)
        if extent is NULL:
            return False
        data = extent + HEADER
    elif flags or size > <uint64_t>(end - data):
        return False
    if tree.is_free:
        is_good = take_free(one, u64(key), data, size)
    else:
        is_good = is_record(key, key_size, data, size, tree.seed, tree.version)
    free(extent)
    return is_good


cdef uint8_t *read_big(File *one, Tree *tree, uint64_t first, uint32_t size) noexcept nogil:
    """The pages of a value that has some of its own, to be freed; NULL where they are not in order."""
    cdef uint64_t count = (HEADER - 1 + <uint64_t>size) // one.page_size + 1, n
    cdef uint8_t *extent
    if first < METAS or first >= one.pages or count > one.pages - first:
        return NULL
    if count > one.size // one.page_size:
        return NULL
    for n in range(count):
        if not mark(one, first + n):
            return NULL
    extent = <uint8_t *>malloc(count * one.page_size)
    if extent is NULL:
        return NULL
    if (
        not read_at(one, first * one.page_size, count * one.page_size, extent)
        or u64(extent) != first or u16(extent + 10) != OVERFLOW or u32(extent + 12) != count
    ):
        free(extent)
        return NULL
    tree.overflows += count
    return extent


cdef bint take_free(File *one, uint64_t transaction, const uint8_t *data, uint32_t size) noexcept nogil:
    """Pages that one transaction has let go of."""
    cdef uint64_t count, n, page, before = NO_PAGE
    if transaction < 1 or transaction > one.transaction or size < 8 or size % 8:
        return False
    count = u64(data)
    if count != size // 8 - 1:
        return False
    for n in range(1, count + 1):
        page = u64(data + 8 * n)
        if page >= before or page < METAS or page >= one.pages or one.unused[page]:
            return False
        one.unused[page] = 1
        before = page
    return True


cdef Name *name_of(File *one, const uint8_t *key, size_t size) noexcept nogil:
    cdef int n
    for n in range(one.names):
        if one.name[n].size == size and memcmp(one.name[n].text, key, size) == 0:
            return &one.name[n]
    return NULL


cdef bint walk_named(File *one, uint64_t number, uint64_t depth) noexcept nogil:
    """The trees that the leaves of the main one lead to. It has been walked, so its pages are in order."""
    cdef uint8_t *page = one.stack + (depth - 1) * one.page_size
    cdef const uint8_t *node
    cdef uint8_t *below = NULL
    cdef Database database
    cdef Tree tree
    cdef Name *name
    cdef uint32_t n, keys, upper
    if not read_at(one, number * one.page_size, one.page_size, page):
        return False
    if u16(page + 10) != LEAF:
        return False  # so many databases that one page has no room for their names are not known here
    keys, upper = (u16(page + 12) - HEADER) >> 1, u16(page + 14)
    for n in range(keys):
        node = node_at(one, page, n, upper)
        if node is NULL:
            return False
        name = name_of(one, node + NODE_HEADER, u16(node + 6))
        if name is NULL:
            return False
        read_database(&database, node + NODE_HEADER + u16(node + 6))
        if database.flags or database.pad > one.page_size - HEADER:
            return False
        start(&tree)
        tree.seed, tree.version = name.seed, name.version
        below = one.stack
        one.stack = page + one.page_size
        if not walk_tree(one, &tree, &database):
            one.stack = below
            return False
        one.stack = below
    return True


cdef void start(Tree *tree) noexcept nogil:
    tree.is_free = tree.is_main = tree.has_last = False
    tree.seed = 0
    tree.version = 0
    tree.branches = tree.leaves = tree.overflows = tree.entries = tree.depth = 0
    tree.last_size = 0


cdef bint walk_file(File *one) noexcept nogil:
    cdef Database of_free, of_main
    cdef Tree tree
    cdef uint64_t page
    if not read_metas(one, &of_free, &of_main):
        return False
    one.live = <uint8_t *>calloc(one.pages, 1)
    one.unused = <uint8_t *>calloc(one.pages, 1)
    one.stack = <uint8_t *>malloc((DEPTH_MAX + 1) * <size_t>one.page_size)
    if one.live is NULL or one.unused is NULL or one.stack is NULL:
        return False
    start(&tree)
    tree.is_free = True
    if not walk_tree(one, &tree, &of_free):
        return False
    start(&tree)
    tree.is_main = True
    if not walk_tree(one, &tree, &of_main):
        return False
    if of_main.root != NO_PAGE and not walk_named(one, of_main.root, 1):
        return False
    for page in range(METAS, one.pages):
        if one.live[page] == one.unused[page]:
            return False
    return True


def is_sound(int file, uint64_t size, names):
    """Whether the open file of so many bytes is sound, with all its records. `names`: of each database that may be in it
    the seed of its checksums and their version. False says nothing."""
    cdef File *one = <File *>calloc(1, sizeof(File))
    cdef bint found
    if one is NULL:
        raise MemoryError
    try:
        one.file, one.size = file, size
        if len(names) > NAMES_MAX:
            return False
        for name, (seed, version) in names.items():
            if len(name) > NAME_MAX:
                return False
            memcpy(one.name[one.names].text, <const uint8_t *>(<bytes>name), len(name))
            one.name[one.names].size = len(name)
            one.name[one.names].seed, one.name[one.names].version = seed, version
            one.names += 1
        with nogil:
            found = walk_file(one)
        return bool(found)
    finally:
        free(one.live)
        free(one.unused)
        free(one.stack)
        free(one)


def checksum(const uint8_t[::1] content, uint32_t before=0):
    """As zlib.crc32: for tests."""
    return crc32(before, &content[0], content.shape[0]) if content.shape[0] else before
