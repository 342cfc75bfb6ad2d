# CRC-32 as zlib computes it, eight bytes at a time, and what a record must look like: see store/record.py. Included by
# the modules that look at records, so that the compiler can see through it.

cdef enum:
    ENVELOPE = 7  # magic, version, checksum

cdef uint32_t POLYNOMIAL = 0xEDB88320
cdef uint32_t TABLE[8][256]


cdef void make_table() noexcept nogil:
    cdef uint32_t n, crc
    cdef int k
    for n in range(256):
        crc = n
        for k in range(8):
            crc = (crc >> 1) ^ (POLYNOMIAL if crc & 1 else <uint32_t>0)
        TABLE[0][n] = crc
    for n in range(256):
        for k in range(1, 8):
            TABLE[k][n] = (TABLE[k - 1][n] >> 8) ^ TABLE[0][TABLE[k - 1][n] & 0xFF]


make_table()


cdef inline uint32_t crc32(uint32_t crc, const uint8_t *at, size_t size) noexcept nogil:
    """As zlib.crc32(bytes, crc)."""
    cdef uint32_t low
    crc = ~crc
    while size >= 8:
        low = crc ^ (at[0] | <uint32_t>at[1] << 8 | <uint32_t>at[2] << 16 | <uint32_t>at[3] << 24)
        crc = (
            TABLE[7][low & 0xFF] ^ TABLE[6][low >> 8 & 0xFF] ^ TABLE[5][low >> 16 & 0xFF] ^ TABLE[4][low >> 24]
            ^ TABLE[3][at[4]] ^ TABLE[2][at[5]] ^ TABLE[1][at[6]] ^ TABLE[0][at[7]]
        )
        at += 8
        size -= 8
    while size:
        crc = (crc >> 8) ^ TABLE[0][(crc ^ at[0]) & 0xFF]
        at += 1
        size -= 1
    return ~crc


cdef inline bint is_record(
    const uint8_t *key, size_t key_size, const uint8_t *record, size_t size, uint32_t seed, uint8_t version
) noexcept nogil:
    """Whether the record is what was stored under the key."""
    cdef uint32_t found, made
    if size < ENVELOPE or record[0] != 0xAC or record[1] != 0x52 or record[2] != version:
        return False
    found = <uint32_t>record[3] << 24 | <uint32_t>record[4] << 16 | <uint32_t>record[5] << 8 | record[6]
    made = crc32(crc32(seed, key, key_size) ^ <uint32_t>key_size, record + ENVELOPE, size - ENVELOPE)
    return found == made
