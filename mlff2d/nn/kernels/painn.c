/* PaiNN, all blocks, forward and backward: see painn.py.

   C channels. Atoms hold scalars (C) and vectors (3, C); what they send is (5, C), see edges.c. */

/* Of each block: the message, which the first block has none of; and the update. */
enum {
    HIDDEN, HIDDEN_BIAS, OUT, OUT_BIAS,
    MIX, MIX_BIAS, ACT, ACT_BIAS, GATES, GATES_BIAS,
    N_WEIGHTS
};

/* What the gradient needs of each atom and block. */
typedef struct {
    real *sent;         /* (5, C) */
    real *slope;        /* (C) of what the message's hidden layer applies */
    real *scale;        /* (C) of the vectors that are sent */
    real *vectors;      /* (3, C) before the block */
    real *mixed;        /* (3, 2 C) */
    real *update_slope; /* (C) of what the update's hidden layer applies */
    real *gates;        /* (3, C) */
} memory;

enum { KEPT = 5 + 1 + 1 + 3 + 6 + 1 + 3 };

static memory memory_of(real *kept, whole n_atoms, whole C, whole block)
{
    whole size = n_atoms * C;
    real *start = kept + block * KEPT * size;
    return (memory){start, start + 5 * size, start + 6 * size, start + 7 * size,
        start + 10 * size, start + 16 * size, start + 17 * size};
}

/* What atoms from `first` on send in the next block. */
static void prepare(whole first, whole n, whole C, const real *const *w, const real *scalars,
    const real *vectors, memory to)
{
    real hidden[BLOCK * C], parts[BLOCK * 3 * C];
    map(n, C, scalars + first * C, w[HIDDEN], w[HIDDEN_BIAS], C, hidden);
    silu(n * C, hidden, to.slope + first * C);
    map(n, C, hidden, w[OUT], w[OUT_BIAS], 3 * C, parts);
    memcpy(to.vectors + first * 3 * C, vectors + first * 3 * C, n * 3 * C * sizeof(real));
    for (whole i = 0; i < n; i++) {
        real *sent = to.sent + (first + i) * 5 * C, *scale = to.scale + (first + i) * C;
        const real *v = vectors + (first + i) * 3 * C;
        memcpy(sent, parts + i * 3 * C, 2 * C * sizeof(real));
        memcpy(scale, parts + (i * 3 + 2) * C, C * sizeof(real));
        for (whole a = 0; a < 3; a++)
            for (whole c = 0; c < C; c++) sent[(2 + a) * C + c] = scale[c] * v[a * C + c];
    }
}

static void prepare_back(whole first, whole n, whole C, const real *const *w, memory from,
    const real *by_sent, whole n_threads, whole n_atoms, real *by_scalars, real *by_vectors)
{
    real by_parts[BLOCK * 3 * C], by_hidden[BLOCK * C];
    for (whole i = 0; i < n; i++) {
        const real *scale = from.scale + (first + i) * C, *v = from.vectors + (first + i) * 3 * C;
        real *restrict by_v = by_vectors + (first + i) * 3 * C;
        real *restrict parts = by_parts + i * 3 * C, by[5 * C];
        memset(by, 0, sizeof(by));
        for (whole t = 0; t < n_threads; t++) {
            const real *of_thread = by_sent + (t * n_atoms + first + i) * 5 * C;
            for (whole c = 0; c < 5 * C; c++) by[c] += of_thread[c];
        }
        memcpy(parts, by, 2 * C * sizeof(real));
        for (whole c = 0; c < C; c++) {
            real sum = 0;
            for (whole a = 0; a < 3; a++) {
                sum += by[(2 + a) * C + c] * v[a * C + c];
                by_v[a * C + c] += by[(2 + a) * C + c] * scale[c];
            }
            parts[2 * C + c] = sum;
        }
    }
    map(n, 3 * C, by_parts, w[OUT], NULL, C, by_hidden);
    for (whole c = 0; c < n * C; c++) by_hidden[c] *= from.slope[first * C + c];
    product(n, C, by_hidden, w[HIDDEN], C, by_scalars + first * C);
}

/* Scalars and vectors of each of some atoms act on each other. */
static void update(whole first, whole n, whole C, const real *const *w, whole n_gates,
    double epsilon, real *scalars, real *vectors, memory to)
{
    real in[BLOCK * 2 * C], hidden[BLOCK * C];
    real *mixed = to.mixed + first * 6 * C, *gates = to.gates + first * n_gates * C;
    map(3 * n, C, vectors + first * 3 * C, w[MIX], NULL, 2 * C, mixed);
    for (whole i = 0; i < n; i++) {
        const real *left = mixed + i * 6 * C;
        real *restrict length = in + (i * 2 + 1) * C;
        memcpy(in + i * 2 * C, scalars + (first + i) * C, C * sizeof(real));
        for (whole c = 0; c < C; c++) {
            real x = left[c], y = left[2 * C + c], z = left[4 * C + c];
            length[c] = sqrt(x * x + y * y + z * z + (real)epsilon);
        }
    }
    map(n, 2 * C, in, w[ACT], w[ACT_BIAS], C, hidden);
    silu(n * C, hidden, to.update_slope + first * C);
    map(n, C, hidden, w[GATES], w[GATES_BIAS], n_gates * C, gates);
    for (whole i = 0; i < n; i++) {
        const real *left = mixed + i * 6 * C, *right = left + C, *gate = gates + i * n_gates * C;
        real *restrict s = scalars + (first + i) * C, *restrict v = vectors + (first + i) * 3 * C;
        for (whole c = 0; c < C; c++) {
            real along = 0;
            for (whole a = 0; a < 3; a++) along += left[2 * a * C + c] * right[2 * a * C + c];
            s[c] += gate[c] + gate[C + c] * along;
        }
        for (whole a = 0; n_gates == 3 && a < 3; a++)
            for (whole c = 0; c < C; c++)
                v[a * C + c] += gate[2 * C + c] * right[2 * a * C + c];
    }
}

static void update_back(whole first, whole n, whole C, const real *const *w, whole n_gates,
    double epsilon, memory from, real *by_scalars, real *by_vectors)
{
    real by_gates[BLOCK * 3 * C], by_mixed[BLOCK * 6 * C], by_hidden[BLOCK * C];
    real by_in[BLOCK * 2 * C];
    for (whole i = 0; i < n; i++) {
        const real *left = from.mixed + (first + i) * 6 * C, *right = left + C;
        const real *gate = from.gates + (first + i) * n_gates * C;
        const real *by_s = by_scalars + (first + i) * C, *by_v = by_vectors + (first + i) * 3 * C;
        real *restrict by_gate = by_gates + i * n_gates * C;
        real *restrict by_left = by_mixed + i * 6 * C;
        for (whole c = 0; c < C; c++) {
            real along = 0, by = by_s[c] * gate[C + c];
            for (whole a = 0; a < 3; a++) {
                along += left[2 * a * C + c] * right[2 * a * C + c];
                by_left[2 * a * C + c] = by * right[2 * a * C + c];
                by_left[(2 * a + 1) * C + c] = by * left[2 * a * C + c];
            }
            by_gate[c] = by_s[c];
            by_gate[C + c] = by_s[c] * along;
        }
        for (whole c = 0; n_gates == 3 && c < C; c++) {
            real along = 0;
            for (whole a = 0; a < 3; a++) {
                along += by_v[a * C + c] * right[2 * a * C + c];
                by_left[(2 * a + 1) * C + c] += by_v[a * C + c] * gate[2 * C + c];
            }
            by_gate[2 * C + c] = along;
        }
    }
    map(n, n_gates * C, by_gates, w[GATES], NULL, C, by_hidden);
    for (whole c = 0; c < n * C; c++) by_hidden[c] *= from.update_slope[first * C + c];
    map(n, C, by_hidden, w[ACT], NULL, 2 * C, by_in);
    for (whole i = 0; i < n; i++) {
        const real *left = from.mixed + (first + i) * 6 * C, *by = by_in + i * 2 * C;
        real *restrict by_left = by_mixed + i * 6 * C;
        real *restrict by_s = by_scalars + (first + i) * C;
        for (whole c = 0; c < C; c++) {
            real x = left[c], y = left[2 * C + c], z = left[4 * C + c];
            real rate = by[C + c] / sqrt(x * x + y * y + z * z + (real)epsilon);
            by_s[c] += by[c];
            by_left[c] += rate * x;
            by_left[2 * C + c] += rate * y;
            by_left[4 * C + c] += rate * z;
        }
    }
    product(3 * n, 2 * C, by_mixed, w[MIX], C, by_vectors + first * 3 * C);
}

/* Scalars, the embedding before, become what the last block leaves; vectors are zero before. */
void painn_forward(const task *t, whole C, double epsilon, real *scalars, real *vectors,
    real *kept)
{
    whole n_atoms = t->n_atoms, last = t->n_blocks - 1;
    for (whole k = 0; k <= last; k++) {
        memory own = memory_of(kept, n_atoms, C, k), next = memory_of(kept, n_atoms, C, k + 1);
        const real *const *w = t->weights + k * N_WEIGHTS;
        if (k) all_messages(t, k, C, own.sent, scalars, vectors, NULL, NULL, 3, 0);
        else all_messages(t, k, C, t->sent, scalars, vectors, NULL, NULL, 2, 0);
        ATOMS(t->atom_threads, n_atoms) {
            update(HERE, C, w, k == last ? 2 : 3, epsilon, scalars, vectors, own);
            if (k < last) prepare(HERE, C, w + N_WEIGHTS, scalars, vectors, next);
        }
    }
}

/* The weights are the transposed ones. What comes by vectors and edges is zero before. */
void painn_backward(const task *t, whole C, double epsilon, real *by_scalars, real *by_vectors,
    real *kept, real *by_sent, real *by_edges)
{
    whole n_atoms = t->n_atoms, last = t->n_blocks - 1;
    for (whole k = last; k >= 0; k--) {
        memory own = memory_of(kept, n_atoms, C, k);
        const real *const *w = t->weights + k * N_WEIGHTS;
        ATOMS(t->atom_threads, n_atoms)
            update_back(HERE, C, w, k == last ? 2 : 3, epsilon, own, by_scalars, by_vectors);
        if (!k) {
            all_messages(t, k, C, t->sent, by_scalars, by_vectors, NULL, by_edges, 2, 1);
            return;
        }
        memset(by_sent, 0, t->edge_threads * n_atoms * 5 * C * sizeof(real));
        all_messages(t, k, C, own.sent, by_scalars, by_vectors, by_sent, by_edges, 3, 1);
        ATOMS(t->atom_threads, n_atoms)
            prepare_back(HERE, C, w, own, by_sent, t->edge_threads, n_atoms, by_scalars,
                by_vectors);
    }
}
