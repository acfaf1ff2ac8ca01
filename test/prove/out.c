/*
 * wp: -wp-fct ws_header,window,put_frame -wp-timeout 10 -wp-no-warn-memory-model
 *
 * Frames of ours, whatever the payload, its length and the room: a header is the one of RFC 6455
 * 5.2 in its shortest form and never masked; a frame goes into the window as a whole, with its
 * longest header if need be, never more than there is room; less than all of the payload is never
 * final; nothing at all, and c->full, when it is not worth a frame.  WP takes for granted that the
 * variables declared here and the slot do not overlap; what is read is Eva's business.
 */
#include <string.h>

#define memmove move /* of bytes, not of void */

/*@
  requires \valid(to + (0 .. n - 1));
  assigns to[0 .. n - 1];
*/
void move(unsigned char *to, const void *from, size_t n);
#include "../../ws.c"

struct config cf;
struct counters count;
int64_t now;

unsigned char out[RECORD_MAX]; /* the send window's memory */
size_t space;                  /* how much of it there is */
size_t put;                    /* what tls_put was told last */
int put_fin;                   /* and the first byte there */

/*@
  requires \valid(n) && space <= RECORD_MAX;
  assigns *n \from space;
  assigns \result \from space;
  ensures *n == space;
  ensures space == 0 ? \result == \null : \result == &out[0];
*/
unsigned char *tls_room(struct conn *c, size_t *n);

/*@
  requires fits: n <= space;
  assigns put, put_fin;
  ensures put == n && put_fin == out[0];
*/
void tls_put(struct conn *c, size_t n);

/*@ assigns *n, \result \from c->in; */
unsigned char *tls_peek(struct conn *c, size_t *n);
/*@ assigns c->in; */
void tls_eat(struct conn *c, size_t n);
/*@ assigns c->why; */
enum step dead(struct conn *c, const char *why);

/*@
  requires \valid(b + (0 .. 3));
  requires 0 <= opcode <= PONG;
  assigns b[0 .. 3];
  ensures final: fin != 0 ==> b[0] == (unsigned char)(128 | opcode);
  ensures not_final: fin == 0 ==> b[0] == (unsigned char)opcode;
  ensures never_masked: b[1] <= 126;
  ensures size: \result == (length <= 125 ? 2 : 4);
  ensures seven: length <= 125 ==> b[1] == length;
  ensures sixteen: length >= 126 ==> b[1] == 126 && b[2] == (unsigned char)(length >> 8) && b[3] == (unsigned char)length;
*/
size_t ws_header(unsigned char *b, int fin, int opcode, uint16_t length);

/*@
  requires \valid(c) && \valid(room) && \separated(room, c, &space) && space <= RECORD_MAX && least <= RECORD_MAX;
  assigns c->full, *room \from c->full, space, least;
  assigns \result \from space, least;
  ensures space >= HEADER + least ? \result == &out[0] && *room == space - HEADER : \result == \null;
  ensures \result == \null ==> c->full != 0;
*/
static unsigned char *window(struct conn *c, size_t least, size_t *room);

/*@
  requires \valid(c) && space <= RECORD_MAX && 0 <= opcode <= PONG && n <= 0x7fffffffffffffff;
  requires \separated(c, &out[0 .. RECORD_MAX - 1], &count, &put, &put_fin);
  assigns c->full, out[0 .. RECORD_MAX - 1], put, put_fin, count.frames_out;
  ensures all_or_part: \result == -1 || 0 <= \result <= n;
  ensures waits: \result == -1 ==> c->full != 0 && put == \old(put);
  ensures whole: \result >= 0 ==> put == \result + (\result <= 125 ? 2 : 4) && put <= space;
  ensures part: 0 <= \result < n ==> put_fin < 128;
  ensures control: \result >= 0 && n <= WORTH ==> \result == n;
*/
static ssize_t put_frame(struct conn *c, int fin, int opcode, const void *p, size_t n);
