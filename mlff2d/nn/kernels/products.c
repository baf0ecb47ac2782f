/* What becomes of the summed messages of an atom in MACE: see products.py.

   C channels, the same for all irreps. Features are coupled, to be multiplied with each other, and
   made of such products. */

typedef struct {
    whole channels;
    whole n_coupled, n_made;
    whole n_rows, n_components;    /* of made and of coupled irreps, all their 2l + 1 */
    whole n_stages, n_monomials;
    const whole *coupled;          /* 2l + 1 and the channels of messages */
    const whole *made;             /* 2l + 1, and the input's channels, 0 where it lacks the irrep */
    const int32_t *stages;         /* pairs of factors whose products are factors too */
    const int32_t *monomials;      /* pairs of factors */
    const int32_t *ends;           /* of the monomials of each made component */
    const real *polynomials;       /* (elements, C / WIDTH, monomials, WIDTH) */
    const real *const *linear;     /* messages to coupled */
    const real *const *mixing;     /* coupled to coupled, of each element; NULL for none */
    const real *const *connection; /* input to made, of each element */
    const real *const *out;        /* made to made */
    const real *const *after;      /* made to what the next layer sums; NULL for none */
} layer;

/* Channels that are treated together. */
enum { WIDTH = 16, VECS = WIDTH / (BYTES / sizeof(real)) };

#define EACH for (int v = 0; v < VECS; v++)

/* The factors of monomials: 1, the components of one atom, and products of them, all (WIDTH). */
static void factors(const layer *p, whole i, whole first, whole count, real *const *a, loose *q)
{
    EACH q[v] = (vec){0} + 1;
    loose *own = q + VECS;
    for (whole k = 0; k < p->n_coupled; k++) {
        const real *from = a[k] + i * p->coupled[2 * k] * p->channels + first;
        for (whole m = 0; m < p->coupled[2 * k]; m++, from += p->channels, own += VECS) {
            if (count >= WIDTH) {
                EACH own[v] = ((const loose *)from)[v];
                continue;
            }
            EACH own[v] = (vec){0};
            memcpy(own, from, count * sizeof(real));
        }
    }
    for (whole s = 0; s < p->n_stages; s++, own += VECS) {
        const loose *left = q + p->stages[2 * s] * VECS, *right = q + p->stages[2 * s + 1] * VECS;
        EACH own[v] = left[v] * right[v];
    }
}

static const loose *polynomials_of(const layer *p, whole element, whole first)
{
    whole n_chunks = (p->channels + WIDTH - 1) / WIDTH;
    whole before = (element * n_chunks + first / WIDTH) * p->n_monomials;
    return (const loose *)(p->polynomials + before * WIDTH);
}

/* Polynomials of the features a of n atoms. */
static void contract(const layer *p, whole n, const whole *element, real *const *a, loose *q,
    real *made)
{
    for (whole first = 0; first < p->channels; first += WIDTH)
        for (whole i = 0; i < n; i++) {
            whole count = p->channels - first < WIDTH ? p->channels - first : WIDTH;
            factors(p, i, first, count, a, q);
            const loose *w = polynomials_of(p, element[i], first);
            const int32_t *pair = p->monomials, *end = p->ends;
            real *to = made + first;
            whole t = 0;
            for (whole k = 0; k < p->n_made; k++) {
                whole dim = p->made[2 * k];
                for (whole m = 0; m < dim; m++, end++) {
                    vec even[VECS] = {{0}}, odd[VECS] = {{0}};
                    for (; t + 2 <= *end; t += 2, pair += 4, w += 2 * VECS) {
                        const loose *l = q + pair[0] * VECS, *r = q + pair[1] * VECS;
                        EACH even[v] += w[v] * (l[v] * r[v]);
                        l = q + pair[2] * VECS, r = q + pair[3] * VECS;
                        EACH odd[v] += w[VECS + v] * (l[v] * r[v]);
                    }
                    for (; t < *end; t++, pair += 2, w += VECS) {
                        const loose *l = q + pair[0] * VECS, *r = q + pair[1] * VECS;
                        EACH even[v] += w[v] * (l[v] * r[v]);
                    }
                    EACH even[v] += odd[v];
                    memcpy(to + (i * dim + m) * p->channels, even, count * sizeof(real));
                }
                to += n * dim * p->channels;
            }
        }
}

/* From by_made, which comes by the polynomials, to by_a, which comes by what they are made of. */
static void contract_backward(const layer *p, whole n, const whole *element, real *const *a,
    loose *q, loose *by_q, const real *by_made, real *by_a)
{
    whole n_factors = 1 + p->n_components + p->n_stages, C = p->channels;
    for (whole first = 0; first < C; first += WIDTH)
        for (whole i = 0; i < n; i++) {
            whole count = C - first < WIDTH ? C - first : WIDTH;
            factors(p, i, first, count, a, q);
            memset(by_q, 0, n_factors * WIDTH * sizeof(real));
            const loose *w = polynomials_of(p, element[i], first);
            const int32_t *pair = p->monomials, *end = p->ends;
            const real *from = by_made + first;
            whole t = 0;
            for (whole k = 0; k < p->n_made; from += n * p->made[2 * k++] * C)
                for (whole m = 0; m < p->made[2 * k]; m++, end++) {
                    vec by[VECS] = {{0}};
                    memcpy(by, from + (i * p->made[2 * k] + m) * C, count * sizeof(real));
                    for (; t < *end; t++, pair += 2, w += VECS) {
                        const loose *l = q + pair[0] * VECS, *r = q + pair[1] * VECS;
                        loose *by_l = by_q + pair[0] * VECS, *by_r = by_q + pair[1] * VECS;
                        vec product[VECS];
                        EACH product[v] = by[v] * w[v];
                        EACH by_l[v] += product[v] * r[v];
                        EACH by_r[v] += product[v] * l[v];
                    }
                }
            for (whole s = p->n_stages - 1; s >= 0; s--) {
                const int32_t *of = p->stages + 2 * s;
                const loose *by = by_q + (1 + p->n_components + s) * VECS;
                const loose *l = q + of[0] * VECS, *r = q + of[1] * VECS;
                loose *by_l = by_q + of[0] * VECS, *by_r = by_q + of[1] * VECS;
                EACH by_l[v] += by[v] * r[v];
                EACH by_r[v] += by[v] * l[v];
            }
            const loose *found = by_q + VECS;
            real *to = by_a + first;
            for (whole k = 0; k < p->n_coupled; to += n * p->coupled[2 * k++] * C)
                for (whole m = 0; m < p->coupled[2 * k]; m++, found += VECS)
                    memcpy(to + (i * p->coupled[2 * k] + m) * C, found, count * sizeof(real));
        }
}

/* Numbers that a thread needs beside. */
whole products_workspace(const layer *p)
{
    whole rows = p->n_rows > p->n_components ? p->n_rows : p->n_components;
    return 3 * BLOCK * rows * p->channels + 2 * (1 + p->n_components + p->n_stages) * WIDTH;
}

/* For each atom y = x times the matrix of its element; both (n, dim, C of theirs). */
static void by_element(whole n, whole dim, const whole *element, whole k, const real *x,
    const real *matrices, whole c, real *y)
{
    for (whole i = 0; i < n; i++)
        product(dim, k, x + i * dim * k, matrices + element[i] * size_of(k, c), c, y + i * dim * c);
}

void products_forward(const layer *p, whole n_atoms, whole n_threads, const whole *element,
    const real *scale, const real *const *m, const real *const *x, real *const *a,
    real *const *out, real *const *y, real *workspace)
{
    whole C = p->channels, n_blocks = (n_atoms + BLOCK - 1) / BLOCK;
#pragma omp parallel for num_threads(n_threads) schedule(static, 1) if (n_threads > 1)
    for (whole t = 0; t < n_threads; t++)
    for (whole block = n_blocks * t / n_threads; block < n_blocks * (t + 1) / n_threads; block++) {
        whole first = block * BLOCK, n = n_atoms - first < BLOCK ? n_atoms - first : BLOCK;
        const whole *z = element + first;
        real *work = workspace + t * products_workspace(p), *here;
        real *own[p->n_coupled];
        for (whole k = 0; k < p->n_coupled; k++) {
            whole dim = p->coupled[2 * k], messages = p->coupled[2 * k + 1], size = n * dim * C;
            own[k] = a[k] + first * dim * C;
            real *linear = p->mixing[k] ? work : own[k];
            memset(linear, 0, size * sizeof(real));
            product(n * dim, messages, m[k] + first * dim * messages, p->linear[k], C, linear);
            if (p->mixing[k]) {
                memset(own[k], 0, size * sizeof(real));
                by_element(n, dim, z, C, linear, p->mixing[k], C, own[k]);
            }
            for (whole c = 0; scale && c < size; c++) own[k][c] *= scale[first + c / (dim * C)];
        }
        here = work + 2 * (1 + p->n_components + p->n_stages) * WIDTH;
        contract(p, n, z, own, (loose *)work, here);
        for (whole k = 0; k < p->n_made; k++) {
            whole dim = p->made[2 * k], inputs = p->made[2 * k + 1], size = dim * C;
            real *to = out[k] + first * size;
            memset(to, 0, n * size * sizeof(real));
            if (inputs)
                by_element(n, dim, z, inputs, x[k] + first * dim * inputs, p->connection[k], C, to);
            product(n * dim, C, here, p->out[k], C, to);
            if (p->after[k]) {
                memset(y[k] + first * size, 0, n * size * sizeof(real));
                product(n * dim, C, to, p->after[k], C, y[k] + first * size);
            }
            here += n * size;
        }
    }
}

/* The layer is that of the transposed matrices. by_m is written, by_x and by_scale are added to. */
void products_backward(const layer *p, whole n_atoms, whole n_threads, const whole *element,
    const real *scale, real *const *a, const real *const *by_out, const real *const *by_y,
    real *const *by_m, real *const *by_x, real *by_scale, real *workspace)
{
    whole C = p->channels, n_blocks = (n_atoms + BLOCK - 1) / BLOCK;
#pragma omp parallel for num_threads(n_threads) schedule(static, 1) if (n_threads > 1)
    for (whole t = 0; t < n_threads; t++)
    for (whole block = n_blocks * t / n_threads; block < n_blocks * (t + 1) / n_threads; block++) {
        whole first = block * BLOCK, n = n_atoms - first < BLOCK ? n_atoms - first : BLOCK;
        const whole *z = element + first;
        whole rows = p->n_rows > p->n_components ? p->n_rows : p->n_components;
        real *q = workspace + t * products_workspace(p);
        real *by_q = q + (1 + p->n_components + p->n_stages) * WIDTH;
        real *whole_by = by_q + (1 + p->n_components + p->n_stages) * WIDTH;
        real *by_made = whole_by + BLOCK * rows * C, *by_a = by_made + BLOCK * rows * C;
        real *here = by_made, *own[p->n_coupled];
        memset(by_made, 0, n * p->n_rows * C * sizeof(real));
        for (whole k = 0; k < p->n_made; k++) {
            whole dim = p->made[2 * k], inputs = p->made[2 * k + 1], size = dim * C;
            memcpy(whole_by, by_out[k] + first * size, n * size * sizeof(real));
            if (p->after[k])
                product(n * dim, C, by_y[k] + first * size, p->after[k], C, whole_by);
            if (inputs)
                by_element(n, dim, z, C, whole_by, p->connection[k], inputs,
                    by_x[k] + first * dim * inputs);
            product(n * dim, C, whole_by, p->out[k], C, here);
            here += n * size;
        }
        for (whole k = 0; k < p->n_coupled; k++) own[k] = a[k] + first * p->coupled[2 * k] * C;
        contract_backward(p, n, z, own, (loose *)q, (loose *)by_q, by_made, by_a);
        here = by_a;
        for (whole k = 0; k < p->n_coupled; k++) {
            whole dim = p->coupled[2 * k], messages = p->coupled[2 * k + 1], size = dim * C;
            real *by = here;
            for (whole i = 0; scale && i < n; i++) {
                real along = 0; /* features are the scale times what it scales */
                for (whole c = 0; c < size; c++) {
                    along += by[i * size + c] * own[k][i * size + c];
                    by[i * size + c] *= scale[first + i];
                }
                by_scale[first + i] += along / scale[first + i];
            }
            if (p->mixing[k]) {
                memset(whole_by, 0, n * size * sizeof(real));
                by_element(n, dim, z, C, by, p->mixing[k], C, whole_by);
                by = whole_by;
            }
            real *to = by_m[k] + first * dim * messages;
            memset(to, 0, n * dim * messages * sizeof(real));
            product(n * dim, C, by, p->linear[k], messages, to);
            here += n * size;
        }
    }
}
