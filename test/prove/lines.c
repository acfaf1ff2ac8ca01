/*
 * eva: -eva-precision 2 -eva-plevel 300 -eva-use-spec take_word,die,read_file
 *
 * The lines of a configuration file of any text: each word is a string in it.  What take_word() does with them is another
 * proof; it writes only into its words, which are behind us.
 */
#include <string.h>
#include "__fc_string_axiomatic.h"

/*@ requires valid_read_string(word);
    requires next == \null || valid_read_string(next);
    assigns \result \from indirect:word;
    ensures 0 <= \result <= 1; */
static int take_word(const char *where, size_t dashes, char *word, char *next);

/*@ requires valid_read_string(what);
    requires wrong == \null || valid_read_string(wrong);
    assigns \nothing;
    ensures \false; */
static _Noreturn void die(int status, const char *where, const char *what, const char *wrong);

static const char *const sentence = "is wrong";

/*@ requires valid_read_string(file);
    requires \valid(text + (0 .. size - 1));
    assigns text[0 .. size - 1] \from indirect:file;
    assigns \result \from sentence, indirect:file;
    ensures text[size - 1] == 0;
    ensures \result == \null || \result == sentence; */
const char *read_file(const char *file, char *text, size_t size);

#include "../../main.c"
#include "__fc_builtin.h"
#include "strings_posix.h"

const struct backend backends[1];
static int ended;

void entry(void);

void
entry(void)
{
	read_config("FILE");
	ended = 1;
	/*@ assert ended == 1; */
}
