/*
 * Second implementations, written for plainness, of what more than one target compares with: a
 * client's frame header, and UTF-8.
 */

/* RFC 6455 5.2 to 5.5, a rule a line.  1: whole, 0: more is needed, -1: wrong. */
__attribute__((unused)) static int
second_frame(const uint8_t *b, size_t n, size_t *size, uint64_t *length)
{
	unsigned opcode = n > 0 ? b[0] % 16 : 0, form = n > 1 ? b[1] % 128 : 0;

	if (n > 0 && b[0] / 16 % 8 != 0)
		return -1; /* reserved bits */
	if (n > 0 && opcode != 0 && opcode != 1 && opcode != 2 && opcode != 8 && opcode != 9 &&
		opcode != 10)
		return -1;
	if (n > 0 && opcode >= 8 && b[0] < 128)
		return -1; /* a control frame in fragments */
	if (n > 1 && b[1] < 128)
		return -1; /* not masked */
	if (n > 1 && opcode >= 8 && form > 125)
		return -1;
	if (n > 2 && form == 127 && b[2] >= 128)
		return -1;
	*size = 2 + 4 + (form == 126 ? 2 : form == 127 ? 8 : 0);
	*length = form;
	if (form == 126 && n >= 4 && (*length = b[2] * 256U + b[3]) < 126)
		return -1;
	if (form == 127 && n >= 10) {
		*length = 0;
		for (int i = 2; i < 10; i++)
			*length = *length * 256 + b[i];
		if (*length <= 0xffff)
			return -1;
	}
	return n >= 2 && n >= *size;
}

/*
 * How many bytes of p[0, n) can begin valid UTF-8, and in *open whether they end inside of a
 * character: a character's value is computed with its missing bits all 0 and all 1.
 */
__attribute__((unused)) static size_t
second_utf8(const uint8_t *p, size_t n, int *open)
{
	static const uint32_t least[] = { 0, 0, 0x80, 0x800, 0x10000 };

	*open = 0;
	for (size_t i = 0; i < n;) {
		unsigned size = p[i] < 0x80   ? 1
				: p[i] < 0xc0 ? 0
				: p[i] < 0xe0 ? 2
				: p[i] < 0xf0 ? 3
				: p[i] < 0xf8 ? 4
					      : 0;

		for (unsigned there = 1; there <= (size > 0 ? size : 1) && i + there <= n;
			there++) {
			uint32_t low = 0, high = 0;

			for (unsigned k = 0; k < size; k++) {
				unsigned bits = k > 0       ? 0x3f
						: size == 1 ? 0x7f
							    : 0xff >> (size + 1);

				if (k > 0 && k < there && (p[i + k] & 0xc0) != 0x80)
					return i + there - 1;
				low = low << 6 | (k < there ? p[i + k] & bits : 0);
				high = high << 6 | (k < there ? p[i + k] & bits : bits);
			}
			if (size == 0 || high < least[size] || low > 0x10ffff ||
				(low >= 0xd800 && high <= 0xdfff))
				return i + there - 1;
		}
		*open = i + size > n;
		i += size;
	}
	return n;
}
