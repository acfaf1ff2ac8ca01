/*
 * Runs a target over files, or over all files of directories, without a fuzzer.  The last line says
 * how many there were; the first one that breaks something ends it, and its name stands before.
 */
#include "fuzz.h"

#include <dirent.h>

#undef main

static unsigned done;

static void
run(const char *path)
{
	static uint8_t room[1 << 20];
	DIR *d = opendir(path);
	struct dirent *e;
	char below[4096];
	uint8_t *copy;
	size_t n;
	FILE *f;

	while (d != NULL && (e = readdir(d)) != NULL) {
		snprintf(below, sizeof below, "%s/%s", path, e->d_name);
		if (e->d_name[0] != '.')
			run(below);
	}
	if (d != NULL) {
		closedir(d);
		return;
	}
	f = fopen(path, "rb");
	if (f == NULL) {
		perror(path);
		exit(1);
	}
	n = fread(room, 1, sizeof room, f);
	fclose(f);
	if (getenv("NAMES") != NULL)
		fprintf(stderr, "%s\n", path);
	copy = exactly(room, n);
	LLVMFuzzerTestOneInput(copy, n);
	free(copy);
	done++;
}

int
main(int argc, char **argv)
{
	for (int i = 1; i < argc; i++)
		run(argv[i]);
	printf("%u inputs\n", done);
	return done == 0;
}
