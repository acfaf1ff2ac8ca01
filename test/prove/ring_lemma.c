/*
 * wp: -wp-timeout 10
 *
 * No live entry of a ring is overwritten, whatever the sizes: two entries at positions t < q of a
 * ring of `cap` bytes, of which each may run over its end by less than the spare bytes, do not
 * share a byte as long as the second one ends within cap bytes of where the first one begins,
 * which is when hub_input stops dropping the oldest.
 */

void turns(unsigned long long k, unsigned long long l, unsigned long long cap);
void place(unsigned long long t, unsigned long long n, unsigned long long q, unsigned long long m,
	unsigned long long cap);

/*@
  requires cap > 0 && k + 1 < l;
  assigns \nothing;
  ensures (k + 1) * cap + cap <= l * cap;
*/
void
turns(unsigned long long k, unsigned long long l, unsigned long long cap)
{
	(void)k;
	(void)l;
	(void)cap;
}

/*@
  requires cap > 0 && n <= cap && m <= cap;
  requires t + n <= q && q + m <= t + cap && q + m <= 18446744073709551615;
  assigns \nothing;
  ensures \let a = t % cap; \let b = q % cap; a + n <= b || b + m <= a;
*/
void
place(unsigned long long t, unsigned long long n, unsigned long long q, unsigned long long m,
	unsigned long long cap)
{
	unsigned long long k = t / cap, l = q / cap;

	/*@ assert t == k * cap + t % cap && q == l * cap + q % cap; */
	/*@ assert t % cap < cap && q % cap < cap; */
	/*@ assert l < k ==> l * cap + cap <= k * cap; */
	if (l > k && l - k > 1)
		turns(k, l, cap);
	/*@ assert (k + 1) * cap == k * cap + cap; */
	/*@ assert l == k || l == k + 1; */
}
