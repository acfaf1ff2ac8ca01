/*
 * For proofs: strsep(3), strtok_r(3) and strrchr(3) as POSIX and BSD say, but for this: of the bytes of a set any may be found,
 * and a word may begin where it likes.  Whatever the real ones return, these return too.
 */
static char *
somewhere(char *s, const char *set)
{
	return strchr(s, set[Frama_C_interval(0, (int)strlen(set) - 1)]);
}

char *
strsep(char **rest, const char *set)
{
	char *s = *rest;

	if (s != NULL)
		*rest = somewhere(s, set);
	if (s != NULL && *rest != NULL)
		*(*rest)++ = '\0';
	return s;
}

char *
strtok_r(char *s, const char *set, char **rest)
{
	char *end;

	s = strchr(s != NULL ? s : *rest, Frama_C_interval(-128, 127));
	if (s == NULL || *s == '\0')
		return NULL;
	end = somewhere(s, set);
	if (end == NULL)
		end = strchr(s, '\0');
	else
		*end++ = '\0';
	*rest = end;
	return s;
}

char *
strrchr(const char *s, int c)
{
	char *p = strchr(s, c), *last = p;

	while (p != NULL) {
		last = p;
		p = strchr(p + 1, c);
	}
	return last;
}
