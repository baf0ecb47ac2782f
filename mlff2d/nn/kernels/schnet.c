/* SchNet, all blocks, forward and backward: see schnet.py.

   C channels of atoms, F of filters, each a multiple of 16. */

/* Of each block: into the filters' channels, and the layers after the sum. */
enum { EMBED, EMBED_BIAS, HIDDEN, HIDDEN_BIAS, OUT, OUT_BIAS, N_WEIGHTS };

/* What the gradient needs of a block: what atoms send (F), and slopes of the hidden layer (C). */
typedef struct {
    real *sent, *slope;
} memory;

static memory memory_of(real *kept, whole n_atoms, whole C, whole F, whole block)
{
    real *start = kept + block * n_atoms * (C + F);
    return (memory){start, start + n_atoms * F};
}

/* The last two layers for atoms from `first` on. */
static void update(whole first, whole n, whole C, whole F, const real *const *w,
    const real *summed, real *x, memory to)
{
    real hidden[BLOCK * C];
    map(n, F, summed + first * F, w[HIDDEN], w[HIDDEN_BIAS], C, hidden);
    softplus(n * C, hidden, to.slope + first * C);
    for (whole i = first; i < first + n; i++)
        for (whole c = 0; c < C; c++) x[i * C + c] += w[OUT_BIAS][c];
    product(n, C, hidden, w[OUT], C, x + first * C);
}

/* Features, the embedding before, become what the last block leaves. */
void schnet_forward(const task *t, whole C, whole F, real *x, real *summed, real *kept)
{
    whole n_atoms = t->n_atoms, last = t->n_blocks - 1;
    for (whole k = 0; k <= last; k++) {
        memory own = memory_of(kept, n_atoms, C, F, k);
        memory next = memory_of(kept, n_atoms, C, F, k + 1);
        const real *const *w = t->weights + k * N_WEIGHTS;
        memset(summed, 0, n_atoms * F * sizeof(real));
        all_messages(t, k, F, k ? own.sent : t->sent, summed, summed, NULL, NULL, 1, 0);
        ATOMS(t->atom_threads, n_atoms) {
            update(HERE, C, F, w, summed, x, own);
            if (k < last)
                map(END - i, C, x + i * C, w[N_WEIGHTS + EMBED], NULL, F, next.sent + i * F);
        }
    }
}

/* From what comes by features to what comes by the sum. */
static void update_back(whole first, whole n, whole C, whole F, const real *const *w,
    const real *by_x, memory from, real *by_summed)
{
    real by_hidden[BLOCK * C];
    map(n, C, by_x + first * C, w[OUT], NULL, C, by_hidden);
    for (whole c = 0; c < n * C; c++) by_hidden[c] *= from.slope[first * C + c];
    map(n, C, by_hidden, w[HIDDEN], NULL, F, by_summed + first * F);
}

/* The weights are the transposed ones. What comes by edges is zero before. */
void schnet_backward(const task *t, whole C, whole F, real *by_x, real *by_summed, real *kept,
    real *by_sent, real *by_edges)
{
    whole n_atoms = t->n_atoms, n_threads = t->edge_threads;
    for (whole k = t->n_blocks - 1; k >= 0; k--) {
        memory own = memory_of(kept, n_atoms, C, F, k);
        const real *const *w = t->weights + k * N_WEIGHTS;
        ATOMS(t->atom_threads, n_atoms) update_back(HERE, C, F, w, by_x, own, by_summed);
        memset(by_sent, 0, n_threads * n_atoms * F * sizeof(real));
        all_messages(t, k, F, k ? own.sent : t->sent, by_summed, by_summed, by_sent, by_edges, 1,
            1);
        if (!k) return;
        ATOMS(t->atom_threads, n_atoms) {
            for (whole thread = 1; thread < n_threads; thread++)
                for (whole c = i * F; c < END * F; c++)
                    by_sent[c] += by_sent[thread * n_atoms * F + c];
            product(END - i, F, by_sent + i * F, w[EMBED], C, by_x + i * C);
        }
    }
}
