/* Messages along edges by filters of the distance: see filters.py.

   C channels, a multiple of 16. What atoms send has, for each channel, 1 part that is filtered and
   summed; or 2 parts, scalars and what the directions are multiplied with; or 3, vectors too,
   (5, C) in all. */

typedef struct {
    whole n_atoms, n_blocks, n_functions; /* 0 functions where filters are in tables */
    whole edge_threads, atom_threads;
    const whole *first, *neighbour, *element;
    const real *vectors;
    const real *const *functions;  /* of each block, (E, functions) */
    real *const *by_functions;     /* their gradient, which is added to */
    const real *const *radial;     /* tables, or matrices for the functions */
    const real *const *transposed; /* the latter for the gradient */
    const double *scales;          /* cells of the tables in an Å */
    double cutoff;
    const real *sent;              /* by atoms of each element in the first block */
    const real *const *weights;
} task;

typedef struct {
    real u[3], inverse;
    real b[8], d[8];     /* factors of six rows of a table, for filters and their slopes */
    const real *filters; /* the first of these rows; or the filters */
    real *by_filters;    /* what comes by these, unless there is a table */
} edge;

#define INLINE static inline __attribute__((always_inline))
#define AT(p) (*(loose *)(p))
#define OF(p) (*(const loose *)(p))
#define ATOMS(n_threads, n_atoms) \
    _Pragma("omp parallel for num_threads(n_threads) schedule(static) if (n_threads > 1)") \
    for (whole i = 0; i < n_atoms; i += BLOCK)
#define END (i + BLOCK < n_atoms ? i + BLOCK : n_atoms)
#define HERE i, END - i

/* The filters of the 16 channels from c on, part by part, and if wanted their slopes in a table. */
INLINE void filters(const edge *e, whole C, whole c, const int parts, const int table, vec *w,
    vec *slopes)
{
    const int n = parts * VECTORS;
    const real *row = e->filters + c * parts;
    for (int v = 0; v < n; v++) {
        w[v] = OF(row + v * LANES);
        if (table && slopes) slopes[v] = e->d[0] * w[v];
        if (table) w[v] *= e->b[0];
    }
    for (int m = 1; table && m < 6; m++) {
        row += parts * C;
        for (int v = 0; v < n; v++) {
            vec coefficient = OF(row + v * LANES);
            w[v] += e->b[m] * coefficient;
            if (slopes) slopes[v] += e->d[m] * coefficient;
        }
    }
}

/* A message is added. */
INLINE void send(const edge *e, whole C, const real *sent, real *restrict scalars,
    real *restrict vectors, const int parts, const int table)
{
    for (whole start = 0; start < C; start += PANEL) {
        vec w[3 * VECTORS];
        filters(e, C, start, parts, table, w, NULL);
        for (int k = 0; k < VECTORS; k++) {
            whole c = start + k * LANES;
            AT(scalars + c) += w[k] * OF(sent + c);
            if (parts == 1) continue;
            vec along = w[VECTORS + k] * OF(sent + C + c);
            for (int a = 0; a < 3; a++) {
                vec v = along * e->u[a];
                if (parts == 3) v += w[2 * VECTORS + k] * OF(sent + (2 + a) * C + c);
                AT(vectors + a * C + c) += v;
            }
        }
    }
}

/* What comes by scalars and vectors goes on to the edge vector and, unless NULL, to by_sent. Where
   there are no tables that by the distance is left out, and given by the filters instead. */
INLINE void send_back(const edge *e, whole C, const real *sent, const real *by_scalars,
    const real *by_vectors, real *restrict by_sent, real *by_edge, const int parts,
    const int table)
{
    vec by_u[3] = {{0}}, by_r = {0};
    for (whole start = 0; start < C; start += PANEL) {
        vec w[3 * VECTORS], slopes[3 * VECTORS];
        filters(e, C, start, parts, table, w, slopes);
#define BY_FILTER(p, by) \
    if (table) by_r += (by) * slopes[p * VECTORS + k]; \
    else AT(e->by_filters + start * parts + (p * VECTORS + k) * LANES) = (by)
        for (int k = 0; k < VECTORS; k++) {
            whole c = start + k * LANES;
            vec by = OF(by_scalars + c);
            BY_FILTER(0, by * OF(sent + c));
            if (by_sent) AT(by_sent + c) += by * w[k];
            if (parts == 1) continue;
            vec x = OF(sent + C + c), by_v[3], along = {0}, turn = {0};
            for (int a = 0; a < 3; a++) {
                by_v[a] = OF(by_vectors + a * C + c);
                along += by_v[a] * e->u[a];
            }
            BY_FILTER(1, along * x);
            if (by_sent) AT(by_sent + C + c) += along * w[VECTORS + k];
            x *= w[VECTORS + k];
            for (int a = 0; a < 3; a++) by_u[a] += by_v[a] * x;
            if (parts == 2) continue;
            for (int a = 0; a < 3; a++) {
                turn += by_v[a] * OF(sent + (2 + a) * C + c);
                if (by_sent) AT(by_sent + (2 + a) * C + c) += by_v[a] * w[2 * VECTORS + k];
            }
            BY_FILTER(2, turn);
        }
    }
    real along = 0, of_r = total(by_r), of_u[3];
    for (int a = 0; a < 3; a++) along += e->u[a] * (of_u[a] = total(by_u[a]));
    for (int a = 0; a < 3; a++)
        by_edge[a] += (of_u[a] - along * e->u[a]) * e->inverse + of_r * e->u[a];
}

/* What the six splines are in a cell, powers of the place within it one below the other. */
static const real SPLINE[6][8] = {
    {1 / 120., 26 / 120., 66 / 120., 26 / 120., 1 / 120.},
    {-5 / 120., -50 / 120., 0, 50 / 120., 5 / 120.},
    {10 / 120., 20 / 120., -60 / 120., 20 / 120., 10 / 120.},
    {-10 / 120., 20 / 120., 0, -20 / 120., 10 / 120.},
    {5 / 120., -20 / 120., 30 / 120., -20 / 120., 5 / 120.},
    {-1 / 120., 5 / 120., -10 / 120., 10 / 120., -5 / 120., 1 / 120.},
};

/* Whether an edge counts; its direction, and its place in the table of a block. */
INLINE int locate(const task *t, whole number, whole block, whole width, const int table, edge *e)
{
    const real *v = t->vectors + 3 * number;
    double v0 = v[0], v1 = v[1], v2 = v[2], r = sqrt(v0 * v0 + v1 * v1 + v2 * v2);
    if (r >= t->cutoff) return 0;
    e->inverse = 1 / r;
    for (int a = 0; a < 3; a++) e->u[a] = v[a] * e->inverse;
    if (!table) return 1;
    double scale = t->scales[block], place = scale * r;
    whole cell = place >= 0 ? (whole)place : 0; /* NaN is no place, but goes on */
    real s = place - (double)cell;
    for (int m = 0; m < 8; m++) {
        e->b[m] = SPLINE[0][m] + s * (SPLINE[1][m] + s * (SPLINE[2][m] +
            s * (SPLINE[3][m] + s * (SPLINE[4][m] + s * SPLINE[5][m]))));
        e->d[m] = (real)scale * (SPLINE[1][m] + s * (2 * SPLINE[2][m] +
            s * (3 * SPLINE[3][m] + s * (4 * SPLINE[4][m] + s * 5 * SPLINE[5][m]))));
    }
    e->filters = t->radial[block] + cell * width;
    return 1;
}

/* Edges whose filters are made together, where there are no tables. */
enum { EDGES = 6 };

/* All messages to atom i in a block, or their gradient. */
INLINE void messages(const task *t, whole i, whole block, whole C, const real *sent, real *scalars,
    real *vectors, real *by_sent, real *by_edges, const int parts, const int table, const int back)
{
    const whole width = parts * C, stride = (parts == 3 ? 5 : parts) * C, k = t->n_functions;
    real values[table ? 1 : EDGES * width], by_values[table ? 1 : EDGES * width];
    for (whole begin = t->first[i], n; begin < t->first[i + 1]; begin += n) {
        n = t->first[i + 1] - begin < EDGES ? t->first[i + 1] - begin : EDGES;
        if (!table)
            map(n, k, t->functions[block] + begin * k, t->radial[block], NULL, width, values);
        if (!table && back) memset(by_values, 0, n * width * sizeof(real));
        for (whole number = begin; number < begin + n; number++) {
            edge e;
            if (!locate(t, number, block, width, table, &e)) continue;
            if (!table) {
                e.filters = values + (number - begin) * width;
                e.by_filters = by_values + (number - begin) * width;
            }
            whole j = t->neighbour[number];
            const real *own = sent + (block ? j : t->element[j]) * stride;
            if (!back) send(&e, C, own, scalars, vectors, parts, table);
            else
                send_back(&e, C, own, scalars, vectors, block ? by_sent + j * stride : NULL,
                    by_edges + 3 * number, parts, table);
        }
        if (!table && back)
            product(n, width, by_values, t->transposed[block], k,
                t->by_functions[block] + begin * k);
    }
}

/* The same for all atoms. by_sent is (threads, N, ...), zero before, and not for block 0. */
INLINE void all_messages(const task *t, whole block, whole C, const real *sent, real *scalars,
    real *vectors, real *by_sent, real *by_edges, const int parts, const int back)
{
    whole n = t->n_atoms, size = (parts == 3 ? 5 : parts) * C;
#pragma omp parallel for num_threads(t->edge_threads) schedule(static, 1) if (t->edge_threads > 1)
    for (whole thread = 0; thread < t->edge_threads; thread++) {
        real *own = by_sent ? by_sent + thread * n * size : NULL;
        whole end = part(t->first, n, thread + 1, t->edge_threads);
        for (whole i = part(t->first, n, thread, t->edge_threads); i < end; i++) {
            real *s = scalars + i * C, *v = vectors + i * 3 * C;
            if (!SINGLE || t->n_functions)
                messages(t, i, block, C, sent, s, v, own, by_edges, parts, 0, back);
            else messages(t, i, block, C, sent, s, v, own, by_edges, parts, 1, back);
        }
    }
}
