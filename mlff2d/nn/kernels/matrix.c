/* Products with matrices (k, n) in panels of 16 columns, (n / 16, k, 16), the last one filled up
   with zeros: what is multiplied at once lies together. */

enum { PANEL = 16, VECTORS = PANEL * sizeof(real) / BYTES, ROWS = 12 / VECTORS };

/* Atoms that are treated together, so that matrices are read once for all of them. */
enum { BLOCK = 12 };

/* y (R, P panels) += x (R, k) w, with rows of y n apart. The sums stay in registers. */
static inline __attribute__((always_inline)) void tile(const int R, const int P, whole k,
    const real *x, const real *w, whole n, real *y)
{
    const int V = P * VECTORS;
    vec sum[12], b[12];
    for (int r = 0; r < R; r++)
        for (int v = 0; v < V; v++) sum[r * V + v] = *(const loose *)(y + r * n + v * LANES);
    for (whole p = 0; p < k; p++) {
        for (int v = 0; v < V; v++)
            b[v] = *(const loose *)(w + (v / VECTORS * k + p) * PANEL + v % VECTORS * LANES);
        for (int r = 0; r < R; r++)
            for (int v = 0; v < V; v++) sum[r * V + v] += x[r * k + p] * b[v];
    }
    for (int r = 0; r < R; r++)
        for (int v = 0; v < V; v++) *(loose *)(y + r * n + v * LANES) = sum[r * V + v];
}

/* Fewer rows than fill the registers: as many panels at once as do. */
static inline __attribute__((always_inline)) void strip(const int R, whole k, const real *x,
    const real *w, whole n, real *y)
{
    const int P = R * VECTORS <= 3 ? 4 : R * VECTORS <= 6 ? 2 : 1;
    whole c = 0;
    for (; c + P * PANEL <= n; c += P * PANEL) tile(R, P, k, x, w + c * k, n, y + c);
    for (; c + PANEL <= n; c += PANEL) tile(R, 1, k, x, w + c * k, n, y + c);
}

/* The same for fewer columns than a panel has. */
static void remainder_of(whole rows, whole k, const real *x, const real *w, whole count, whole n,
    real *y)
{
    for (whole r = 0; r < rows; r += ROWS) {
        real own[ROWS * PANEL] = {0};
        whole here = rows - r < ROWS ? rows - r : ROWS;
        for (whole i = 0; i < here; i++)
            memcpy(own + i * PANEL, y + (r + i) * n, count * sizeof(real));
        if (here == ROWS) tile(ROWS, 1, k, x + r * k, w, PANEL, own);
        for (whole i = 0; here < ROWS && i < here; i++)
            tile(1, 1, k, x + (r + i) * k, w, PANEL, own + i * PANEL);
        for (whole i = 0; i < here; i++)
            memcpy(y + (r + i) * n, own + i * PANEL, count * sizeof(real));
    }
}

/* y (rows, n) += x (rows, k) w. */
static void product(whole rows, whole k, const real *x, const real *w, whole n, real *y)
{
    whole full = n / PANEL * PANEL, tiled = rows / ROWS * ROWS;
    if (n > full) remainder_of(rows, k, x, w + full * k, n - full, n, y + full);
    for (whole c = 0; tiled && c < full; c += PANEL)
        for (whole r = 0; r < tiled; r += ROWS)
            tile(ROWS, 1, k, x + r * k, w + c * k, n, y + r * n + c);
    x += tiled * k;
    y += tiled * n;
#define STRIP(R) if (R < ROWS && rows - tiled == R) strip(R, k, x, w, n, y);
    STRIP(1) STRIP(2) STRIP(3) STRIP(4) STRIP(5)
    STRIP(6) STRIP(7) STRIP(8) STRIP(9) STRIP(10) STRIP(11)
}

/* Numbers of a matrix (k, n) in panels. */
static inline whole size_of(whole k, whole n) { return (n + PANEL - 1) / PANEL * PANEL * k; }
